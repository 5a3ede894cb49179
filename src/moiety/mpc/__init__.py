"""Protocols on shares, written once; they know no network."""
