"""Functions of secrets, one idea a file."""
