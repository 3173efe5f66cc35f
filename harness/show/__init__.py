"""What results look like: sentences, tables, Markdown and bars of text."""
