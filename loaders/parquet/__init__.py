"""One Parquet file: footer, schema, layout, and how pandas itself reads it."""
