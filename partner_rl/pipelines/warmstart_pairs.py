"""Warm-start examples from corpora of any size (PARTNER, section 4.5), in two passes.

The first pass is the stage `warmstart-candidates`: file by file, all examples that the pairs yield. The second counts
them by mechanism and position, gives each cell a quota (`partner_rl.warmstart.quotas`), takes the examples with the
smallest random keys of each cell and copies these. It holds numbers only in memory: for each candidate a key and the
number of its cell, together with what sorting them takes some 40 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from partner_rl.config.schema import WarmStartConfig
from partner_rl.data.folders import DONE, RUN
from partner_rl.data.parquet import write_tables
from partner_rl.data.parquet_batches import none_usable
from partner_rl.pipelines.done_markers import locked, refuse_input_folder, run_record
from partner_rl.pipelines.label import ClassifierSettings
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.stage import Stage, run_stage
from partner_rl.pipelines.units import parquet_files, plan_units
from partner_rl.pipelines.warmstart_candidates import KEY, CandidateSettings, candidate_stage, refuse_unlabelled
from partner_rl.pipelines.warmstart_pairs_report import REPORT_JSON, PairsReport, Sample, sample_of, write_report
from partner_rl.positions import decode_position, num_positions
from partner_rl.progress import Progress, ShowProgress, show_no_progress
from partner_rl.storage.atomic import growing_folder
from partner_rl.types import MECHANISMS, PartnerError
from partner_rl.warmstart.dataset import EXAMPLE_SCHEMA
from partner_rl.warmstart.quotas import Cell, balanced_quotas

KIND: Final = "warm-start examples"
"""What the output folder says that it is."""

CANDIDATES: Final = "_candidates"
"""Folder of the first pass's files in the output folder; may be deleted when the examples are there."""

SAMPLES: Final = 20
"""Random examples in the report."""

_READ_ROWS: Final = 8192
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)

Keys = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Balance:
    """How many of the candidates to take.

    Attributes:
        max_examples: Most examples in all; None for as many as the balance allows.
    """

    max_examples: int | None = None
    noop_fraction: float = WarmStartConfig().noop_fraction

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            PartnerError: One is out of range.
        """
        if self.max_examples is not None and self.max_examples < 1:
            raise PartnerError(f"max-examples={self.max_examples}: give at least 1")
        if not 0.0 <= self.noop_fraction <= 1.0:
            raise PartnerError(f"noop-fraction={self.noop_fraction}: give a share, 0 to 1")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which candidates are taken.

    Attributes:
        keys: Their keys, sorted, all different.
        before: Candidates of each cell, repeated ones counted once.
    """

    keys: Keys
    before: Mapping[Cell, int]
    after: Mapping[Cell, int]
    repeated: int


def make_warmstart_pairs(
    source: Path,
    output: Path,
    settings: CandidateSettings,
    balance: Balance,
    classifier: ClassifierSettings | None,
    resources: Resources,
    show: ShowProgress = show_no_progress,
    *,
    overwrite: bool = False,
) -> PairsReport:
    """Makes a balanced data set of warm-start examples from a Parquet file or folder of pairs.

    Without a classifier, the pairs' own rationales say which sentences are empathic. `overwrite` replaces what an
    earlier run wrote; candidates of the same settings, model and input are kept.

    Raises:
        PartnerError: See `run_stage`; no pair is labelled and there is no classifier; no sentence qualifies; the
            folder holds something else.
    """
    if classifier is None:
        refuse_unlabelled(source)
    refuse_input_folder(output, source)
    stage = candidate_stage(settings, classifier, resources)
    candidates = output / CANDIDATES
    growing_folder(output, KIND)
    with locked(output):
        earlier = _earlier_examples(output, balance, overwrite)
        anew = overwrite and not _made_alike(stage, source, candidates, resources)
        with show("Extracting") as progress:
            extraction = run_stage(stage, source, candidates, resources, progress, overwrite=anew)
        if not extraction.counts.get("responses/read"):
            raise none_usable(source, extraction.rows_in, extraction.counts)
        files = parquet_files(candidates)
        choice = choose(*read_keys(files, settings.window), settings.window, balance)
        if not len(choice.keys):
            raise PartnerError(
                f"{source} yields no example: no usable sentence reaches level {settings.min_level}; "
                "lower --min-level, raise --max-words, or give more pairs"
            )
        # The report first: while it is not there, the folder is not finished.
        (output / REPORT_JSON).unlink(missing_ok=True)
        for path in earlier:
            path.unlink(missing_ok=True)
        with show("Copying") as progress:
            rows, samples = _copy(files, output, choice.keys, progress)
        given = {**asdict(settings), **asdict(balance)}
        report = PairsReport(
            given, extraction.counts, choice.before, choice.after, choice.repeated, rows, tuple(samples)
        )
        write_report(report, output)
    return report


def read_keys(files: Sequence[Path], window: int) -> tuple[Codes, Keys]:
    """The cell number and the key of each candidate, in the order of the files."""
    codes, keys = [np.zeros(0, np.int16)], [np.zeros(0, np.uint64)]
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_READ_ROWS, columns=["mechanism", "position", KEY]):
                mechanism = pc.fill_null(pc.index_in(batch["mechanism"], pa.array(MECHANISMS)), -1).to_numpy()
                position = batch["position"].to_numpy()
                codes.append(((mechanism + 1) * num_positions(window) + position).astype(np.int16))
                keys.append(batch[KEY].to_numpy())
    return np.concatenate(codes), np.concatenate(keys)


def choose(codes: Codes, keys: Keys, window: int, balance: Balance) -> Choice:
    """The candidates to take: of each cell as many as its quota, those with the smallest keys."""
    sorted_keys, first = np.unique(keys, return_index=True)
    sorted_codes = codes[first]
    present = [int(code) for code in np.unique(sorted_codes)]
    rows = {_cell(code, window): np.flatnonzero(sorted_codes == code) for code in present}
    before = {cell: len(found) for cell, found in rows.items()}
    after = balanced_quotas(before, balance.max_examples, balance.noop_fraction)
    taken = [found[: after.get(cell, 0)] for cell, found in rows.items()]
    chosen = np.sort(sorted_keys[np.concatenate(taken)]) if taken else sorted_keys
    return Choice(chosen, before, after, repeated=len(keys) - len(sorted_keys))


def _cell(code: int, window: int) -> Cell:
    mechanism, position = divmod(code, num_positions(window))
    name = MECHANISMS[mechanism - 1] if mechanism else ""
    return Cell(decode_position(position, window).kind, name, position)


def _copy(files: Sequence[Path], output: Path, chosen: Keys, progress: Progress) -> tuple[dict[str, int], list[Sample]]:
    """Writes the chosen candidates; returns the rows of each file, and some random examples."""
    rows: dict[str, int] = {}
    samples: list[Sample] = []
    sample_keys = chosen[np.argsort(_shuffled(chosen))[:SAMPLES]]
    taken_C = np.zeros(len(chosen), np.bool_)
    sizes = [pq.read_metadata(path).num_rows for path in files]
    for number, path in enumerate(files, start=1):
        tables = _sampled(_chosen_rows(path, chosen, taken_C), sample_keys, samples)
        first = next(tables, None)
        if first is not None:
            rows[path.name] = write_tables(output / path.name, EXAMPLE_SCHEMA, chain((first,), tables))
        progress(sum(sizes[:number]), sum(sizes))
    return rows, samples


def _chosen_rows(path: Path, chosen: Keys, taken_C: npt.NDArray[np.bool_]) -> Iterator[pa.Table]:
    """A file's chosen rows that were not taken yet, each batch in random order; notes in `taken_C` what it takes."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_READ_ROWS):
            keys = batch[KEY].to_numpy()
            place = np.minimum(np.searchsorted(chosen, keys), len(chosen) - 1)
            found = np.flatnonzero((chosen[place] == keys) & ~taken_C[place])
            place_found, first = np.unique(place[found], return_index=True)
            taken_C[place_found] = True
            rows = found[first]
            if len(rows):
                order = np.argsort(_shuffled(keys[rows]))
                yield pa.Table.from_batches([batch]).take(pa.array(rows[order]))


def _sampled(tables: Iterator[pa.Table], sample_keys: Keys, samples: list[Sample]) -> Iterator[pa.Table]:
    """Passes tables on without their keys, and collects the rows that are samples."""
    for table in tables:
        wanted = np.isin(table[KEY].to_numpy(), sample_keys)
        samples.extend(sample_of(row) for row in table.filter(pa.array(wanted)).to_pylist())
        yield table.select(EXAMPLE_SCHEMA.names).cast(EXAMPLE_SCHEMA)


def _shuffled(keys: Keys) -> Keys:
    """Numbers whose order is another than that of the keys, by which cells with a small quota would come first."""
    mixed = keys * _ODD
    return mixed ^ (mixed >> np.uint64(32))


def _made_alike(stage: Stage, source: Path, folder: Path, resources: Resources) -> bool:
    """Whether a folder of candidates was begun by the same stage from the same input."""
    path = folder / DONE / RUN
    if not path.exists():
        return False
    units = plan_units(source, resources.rows_per_unit, stage.columns)
    record = run_record(stage.name, stage.settings, resources.rows_per_unit, units)
    return bool(json.loads(path.read_text(encoding="utf-8")) == record)


def _earlier_examples(output: Path, balance: Balance, overwrite: bool) -> list[Path]:
    """The example files of an earlier run, which are to be replaced.

    Raises:
        PartnerError: The folder holds other files, or examples that were chosen otherwise and may not be replaced.
    """
    path = output / REPORT_JSON
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    names = set() if report is None else set(report["files"])
    names |= {candidate.name for candidate in (output / CANDIDATES).glob("*.parquet")}
    examples = sorted(output.glob("*.parquet"))
    foreign = next((example.name for example in examples if example.name not in names), None)
    if foreign is not None:
        raise PartnerError(f"{output} holds files of something else ({foreign}): choose another folder")
    for name, new in asdict(balance).items():
        old = new if report is None else report["settings"].get(name)
        if old != new and not overwrite:
            option = name.replace("_", "-")
            raise PartnerError(
                f"{output} was made with {option}={old}, now it is {new}: add --overwrite or choose another folder"
            )
    return examples
