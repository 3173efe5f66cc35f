"""What all rooms need: errors, settings, the machine, files written at once."""
