"""Reports of measurements: an HTML page, Markdown, charts, CSV and JUnit."""
