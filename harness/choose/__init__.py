"""From samples to a choice and a profile; nothing here measures."""
