"""Whether any loader delivers every row once: under ranks, resumed, and in wrappers."""
