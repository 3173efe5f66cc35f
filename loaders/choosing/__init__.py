"""Which backend and settings a loader uses, and whether a profile may be trusted."""
