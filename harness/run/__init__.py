"""Which trials run when: search, launches and child processes."""
