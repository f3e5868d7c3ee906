"""Long work over folders of Parquet files: file by file, resumable, in parallel by Ray Data."""
