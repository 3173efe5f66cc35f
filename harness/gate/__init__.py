"""Check whether a revision is slower than another."""
