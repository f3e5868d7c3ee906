"""Any corpus → Parquet files that a stage can read."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final

from partner_rl.config.paths import SAMPLE, absolute_path
from partner_rl.data.convert import convert
from partner_rl.data.epitome import EPITOME_FILES
from partner_rl.data.readers import epitome_source, iter_rows, source_files
from partner_rl.pipelines.done_markers import read_json
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.atomic import growing_folder, write_json
from partner_rl.types import PartnerError

INPUT: Final = "_input"
"""Folder of a converted corpus, in the output folder."""

_PAIRS: Final = "pairs.parquet"
_RECORD: Final = "source.json"


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """A corpus as a .parquet file or a folder of them, and how many of its rows could not be converted."""

    path: Path
    rejected: int = 0


def parquet_source(
    source: str,
    output: Path,
    kind: str,
    max_post_characters: int,
    progress: Progress = no_progress,
    *,
    overwrite: bool = False,
) -> ParquetSource:
    """The corpus itself if it is Parquet, of whatever writer; otherwise it is converted to `OUTPUT/_input`, once.

    A post of more than `max_post_characters` is rejected; `overwrite` converts again, whatever is there.

    Raises:
        PartnerError: The source cannot be read, or another one was converted to this place.
    """
    epitome = epitome_source(source)
    if epitome is None and source_files(source)[0].suffix.lower() == ".parquet":
        return ParquetSource(absolute_path(source))
    target, record_path = output / INPUT / _PAIRS, output / INPUT / _RECORD
    state = _state(source, epitome, max_post_characters)
    if record_path.exists() and target.exists() and not overwrite:
        record = read_json(record_path)
        if record["state"] != state:
            raise PartnerError(f"{output} was made with another corpus: add --overwrite or choose another folder")
        return ParquetSource(target, record["rejected"])
    growing_folder(output, kind)
    _, rest = convert(iter_rows(source, max_post_characters, progress), source, target)
    write_json(record_path, {"state": state, "rejected": len(rest.rejects)})
    return ParquetSource(target, len(rest.rejects))


def _state(source: str, epitome: Traversable | None, max_post_characters: int) -> list[Any]:
    if source == SAMPLE:
        return [SAMPLE, version("partner-rl"), max_post_characters]
    path = absolute_path(source).resolve()
    files = source_files(source) if epitome is None else [Path(str(epitome.joinpath(name))) for name in EPITOME_FILES]
    states = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return [str(path), states, max_post_characters]
