"""What the kernel tells of processes, memory, threads and files."""
