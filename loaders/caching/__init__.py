"""Decoded files that are kept: in memory or on disk, behind one interface."""
