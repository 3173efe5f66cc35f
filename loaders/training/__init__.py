"""From rows to float matrices, epochs and spans of files."""
