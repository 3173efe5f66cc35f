"""Servers on loopback for tests and benchmarks of loading from object stores."""
