"""From files to one frame."""
