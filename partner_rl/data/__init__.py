"""Pairs in and out: readers that reject bad rows, Parquet, deterministic splits."""
