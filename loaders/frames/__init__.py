"""Load files as one frame."""
