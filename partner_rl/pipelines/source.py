"""Any corpus → Parquet files that a stage can read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from partner_rl.config.paths import SAMPLE
from partner_rl.data.convert import convert
from partner_rl.data.readers import iter_rows
from partner_rl.pipelines.receipts import read_json, write_json
from partner_rl.types import PartnerError

INPUT: Final = "_input"
"""Folder of a converted corpus, in the output folder."""

_PAIRS: Final = "pairs.parquet"
_RECORD: Final = "source.json"


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """A corpus as Parquet.

    Attributes:
        path: A .parquet file or a folder of them.
        rejected: Rows that could not be converted.
    """

    path: Path
    rejected: int = 0


def parquet_source(
    source: str,
    output: Path,
    max_post_characters: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    overwrite: bool = False,
) -> ParquetSource:
    """The corpus itself if it is Parquet; otherwise it is converted to `OUTPUT/_input`, once.

    Args:
        source: A .parquet file, a folder of them, or anything that `readers.iter_rows` reads.
        output: The output folder of the command.
        max_post_characters: A longer post is rejected.
        progress: Called with (done, total) while a corpus is converted.
        overwrite: Convert again, whatever is there.

    Raises:
        PartnerError: The source cannot be read, or another one was converted to this place.
    """
    path = Path(source).expanduser()
    if source != SAMPLE and (path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")))):
        return ParquetSource(path)
    target, record_path = output / INPUT / _PAIRS, output / INPUT / _RECORD
    state = _state(source, path, max_post_characters)
    if record_path.exists() and target.exists() and not overwrite:
        record = read_json(record_path)
        if record["state"] != state:
            raise PartnerError(f"{output} was made with another corpus: add --overwrite or choose another folder")
        return ParquetSource(target, record["rejected"])
    # A folder without CSV files is more likely meant to hold Parquet files.
    if source != SAMPLE and path.is_dir() and not any(path.rglob("*.csv")):
        raise PartnerError(f"the folder {path} holds neither .parquet files nor a corpus in the EPITOME layout")
    result = convert(iter_rows(source, max_post_characters, progress), source, target)
    write_json({"state": state, "rejected": len(result.rejects)}, record_path)
    return ParquetSource(target, len(result.rejects))


def _state(source: str, path: Path, max_post_characters: int) -> list[Any]:
    if source == SAMPLE:
        return [SAMPLE, version("partner-rl"), max_post_characters]
    files = sorted(path.rglob("*.csv")) if path.is_dir() else [path]
    states = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.exists()]
    return [str(path.resolve()), states, max_post_characters]
