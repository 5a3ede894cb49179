"""From a PyTorch model to an immutable, hashed plan. Pure: no sockets, no clock, no randomness."""
