"""Caches of decoded files, in memory or on disk, behind one interface."""
