"""Datasets to try feedrate with."""
