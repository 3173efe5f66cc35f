"""From flags, TOML and data to trials."""
