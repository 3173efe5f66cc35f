"""Reports of what was measured: Markdown and CSV."""
