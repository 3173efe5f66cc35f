"""Processes, memory, threads and files, as the kernel reports them."""
