"""Checks of a machine, of its data, and of the figures measured on it."""
