"""What a machine and its data are like, and whether figures measured here are true."""
