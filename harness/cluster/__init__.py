"""Trials on a Ray cluster: nodes, leading them from here, and what comes of it."""
