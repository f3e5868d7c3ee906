"""The corpus of a command of the data pipeline, as the Parquet files that its stages read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from launch.console import out, progress
from partner_rl.pipelines.source import parquet_source

SOURCE_HELP: Final = (
    "Pairs: a .csv, .tsv, .jsonl or .parquet file, a folder of them or in the EPITOME layout, or sample."
)
"""Help of the argument that names the corpus."""


def converted(source: str, output: Path, kind: str, max_post_characters: int, *, overwrite: bool) -> Path:
    """The corpus as Parquet, converted if it is something else; says how many rows could not be read.

    Raises:
        PartnerError: See `parquet_source`.
    """
    with progress("Converting") as report:
        pairs = parquet_source(source, output, kind, max_post_characters, report, overwrite=overwrite)
    if pairs.rejected:
        out.print(f"{pairs.rejected} rows could not be read; `partner-rl data convert` lists them")
    return pairs.path
