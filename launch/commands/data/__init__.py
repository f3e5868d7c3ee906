"""`partner-rl data`: the data pipeline."""
