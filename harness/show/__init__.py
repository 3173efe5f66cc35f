"""Present results: sentences, tables, Markdown and text bars."""
