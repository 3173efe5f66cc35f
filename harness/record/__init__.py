"""What is written down, and what follows from it; nothing here measures."""
