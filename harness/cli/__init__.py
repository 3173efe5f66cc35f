"""Commands, options, progress, tables, errors and exit codes."""
