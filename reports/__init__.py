"""Reports of what was measured: a page, Markdown, charts, CSV and JUnit."""
