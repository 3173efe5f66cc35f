"""Data to play with."""
