"""Whether a revision is slower than another."""
