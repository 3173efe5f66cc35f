"""Ray Data as a backend."""
