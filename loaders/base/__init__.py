"""Basics for all rooms: errors, settings, the machine, dates, atomic file writes."""
