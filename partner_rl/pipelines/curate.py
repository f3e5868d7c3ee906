"""Curating a corpus: usable posts, no personal data, on topic, no duplicates; in three passes over Parquet files.

1. `clean`, in parallel: drops pairs that are of no use or off topic, puts placeholders in place of personal data, and
   adds to each pair the keys by which duplicates are found. Written to `OUTPUT/_work/clean`.
2. `mark`, in this process: finds duplicates over all files, a column of keys at a time.
3. `keep`, in parallel: copies the pairs that stay to `OUTPUT`.

Each pass goes on where it was stopped. At the end `OUTPUT/counts.json` says what was dropped and why, and `_work` goes.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from partner_rl.curation import duplicates, pii
from partner_rl.curation.usable import REASONS, Limits
from partner_rl.data.folders import DONE
from partner_rl.data.pair_schema import PAIR_SCHEMA
from partner_rl.data.parquet_batches import REJECTED, REMARKED, counts_under, pair_fields
from partner_rl.pipelines.cleaning import CLEAN_SCHEMA, OFF_TOPIC, RATIONALES_DROPPED, CleanBuilder, TopicSettings
from partner_rl.pipelines.deduplication import MARKS, KeepBuilder, mark_duplicates, offsets
from partner_rl.pipelines.done_markers import (
    locked,
    read_json,
    refuse_difference,
    refuse_foreign,
    refuse_input_folder,
    remove_results,
    run_record,
)
from partner_rl.pipelines.ray_data import local_ray
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.stage import Stage, StageReport, columns_of, run_stage
from partner_rl.pipelines.units import plan_units
from partner_rl.progress import ShowProgress, show_no_progress
from partner_rl.storage.atomic import growing_folder, write_json
from partner_rl.storage.fingerprint import fingerprint_of_files
from partner_rl.types import PartnerError

KIND: Final = "curated pairs"
"""What the output folder says that it is."""

COUNTS: Final = "counts.json"
"""File with the counts, in the output folder."""

WORK: Final = "_work"
"""Folder of what the passes leave for each other, in the output folder."""

_CURATED: Final = "curate.json"
_COPY_ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class CurateSettings:
    """What decides about pairs.

    Attributes:
        phone_regions: Regions whose national notation of telephone numbers is recognised.
        near_threshold: Similarity of both posts from which on pairs are near-duplicates.
        topic: The topic classifier; None keeps every topic.
    """

    limits: Limits = field(default_factory=Limits)
    phone_regions: tuple[str, ...] = pii.PHONE_REGIONS
    near_threshold: float = duplicates.THRESHOLD
    topic: TopicSettings | None = None

    def record(self) -> dict[str, Any]:
        """The settings as JSON values; the state of the topic model's files is among them."""
        values = asdict(self) | {"topic": None}
        if self.topic is not None:
            values["topic"] = {"threshold": self.topic.threshold, "model": fingerprint_of_files(self.topic.model)}
        return values


@dataclass(frozen=True, slots=True)
class CurateReport:
    """What curating did.

    Attributes:
        dropped: Why pairs were dropped → how many.
        replaced: Kind of personal data → how many were replaced, in the pairs that passed the first checks.
        rejected: Why rows are no pairs → how many.
        remarks: What was left out of pairs → of how many.
    """

    rows_in: int
    kept: int
    dropped: Mapping[str, int]
    replaced: Mapping[str, int]
    rationales_dropped: int
    seconds: float
    rejected: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)


def curate(
    source: Path,
    output: Path,
    settings: CurateSettings,
    resources: Resources,
    show: ShowProgress = show_no_progress,
    *,
    address: str | None = None,
    overwrite: bool = False,
) -> CurateReport:
    """Curates a corpus; does nothing where that was done already.

    `address` is a Ray cluster to join; None starts a Ray on this machine, if none is running. `overwrite` deletes what
    curating wrote into the folder before.

    Raises:
        PartnerError: As `run_stage`; there is no topic model; not one pair can be used.
    """
    started = time.monotonic()
    pii.check_regions(settings.phone_regions)
    if settings.topic is not None and not settings.topic.model.is_dir():
        raise PartnerError(f"no topic model at {settings.topic.model}: `partner-rl data train-topic` makes one")
    units = plan_units(source, resources.rows_per_unit, pair_fields)
    record = run_record("curate", settings.record(), resources.rows_per_unit, units)
    if overwrite:
        _remove(output)
    if (output / DONE / _CURATED).exists():
        refuse_difference(output, read_json(output / DONE / _CURATED), record)
        return CurateReport(**read_json(output / COUNTS), seconds=time.monotonic() - started)
    refuse_input_folder(output, source)
    if not (output / DONE).exists():
        refuse_foreign(output)
    growing_folder(output, KIND)
    with locked(output / WORK), local_ray(resources, address):
        counts = _passes(source, output, settings, record, resources, show)
    _finish(output, record, counts)
    return CurateReport(**counts, seconds=time.monotonic() - started)


def _passes(
    source: Path,
    output: Path,
    settings: CurateSettings,
    record: Mapping[str, Any],
    resources: Resources,
    show: ShowProgress,
) -> dict[str, Any]:
    """All three passes; the counts as `CurateReport` names them."""
    work = output / WORK
    clean = work / "clean"
    device = "cuda" if resources.num_gpus else "cpu"
    builder = CleanBuilder(settings.limits, settings.phone_regions, settings.topic, device)
    first = Stage("curate", builder, pair_fields, CLEAN_SCHEMA, record["settings"])
    with show("Cleaning pairs") as progress:
        cleaned = run_stage(first, source, clean, resources, progress)
    if not cleaned.rows_out:
        raise PartnerError(f"{source}: not one of {cleaned.rows_in} pairs can be used ({_reasons(cleaned)})")
    with show("Finding duplicates (bands)") as progress:
        marks = mark_duplicates(clean, work, settings.near_threshold, progress)
    keeper = KeepBuilder(marks, offsets(clean))
    last = Stage("curate", keeper, columns_of(CLEAN_SCHEMA), PAIR_SCHEMA, record["settings"])
    with show("Writing pairs") as progress:
        kept = run_stage(last, clean, output, Resources(resources.workers, resources.num_cpus, 0, _COPY_ROWS), progress)
    return _counts(cleaned.rows_in, kept.rows_out, Counter(cleaned.counts) + Counter(kept.counts))


def _reasons(report: StageReport) -> str:
    counts = {name.partition("/")[2] or name: count for name, count in sorted(report.counts.items())}
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _counts(rows_in: int, kept: int, counts: Mapping[str, int]) -> dict[str, Any]:
    def part(prefix: str, names: Iterable[str]) -> dict[str, int]:
        return {name: counts.get(f"{prefix}/{name}", 0) for name in names}

    return {
        "rows_in": rows_in,
        "kept": kept,
        "dropped": part("dropped", (*REASONS, OFF_TOPIC, "duplicate_exact", "duplicate_near")),
        "replaced": part("replaced", pii.KINDS.values()),
        "rationales_dropped": counts.get(RATIONALES_DROPPED, 0),
        "rejected": counts_under(counts, REJECTED),
        "remarks": counts_under(counts, REMARKED),
    }


def _finish(output: Path, record: Mapping[str, Any], counts: Mapping[str, Any]) -> None:
    write_json(output / COUNTS, counts, indent=1, sort_keys=True)
    write_json(output / DONE / _CURATED, record, indent=1)
    shutil.rmtree(output / WORK)


def _remove(output: Path) -> None:
    """Deletes what curating wrote into a folder; what says that it is finished goes first."""
    (output / DONE / _CURATED).unlink(missing_ok=True)
    (output / COUNTS).unlink(missing_ok=True)
    if (output / DONE).is_dir():
        with locked(output):
            remove_results(output)
    if (output / WORK).is_dir():
        with locked(output / WORK):
            shutil.rmtree(output / WORK / "clean", ignore_errors=True)
            (output / WORK / MARKS).unlink(missing_ok=True)
