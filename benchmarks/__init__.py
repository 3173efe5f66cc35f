"""The proof of speed: our loaders and the peers side by side, on the same data, in one run."""
