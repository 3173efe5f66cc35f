"""Inside a child process: one loader, timed."""
