"""The results journal and what is computed from it; nothing here measures."""
