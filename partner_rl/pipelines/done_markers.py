"""What an output folder says about itself: made of which input with which settings, and which units are done.

`_done/run.json` is written first and says what the folder is made of. `_done/<unit>.json` is written last, once
the unit's file is under its final name. A unit whose marker and file fit is not done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from partner_rl.data.folders import DONE, RUN
from partner_rl.pipelines.units import Unit
from partner_rl.storage.atomic import write_json
from partner_rl.storage.temporary import remove_unfinished
from partner_rl.types import PartnerError

ATTEMPTS: Final = ".attempts-"
"""Beginning of the names of files that count how often a unit was begun."""


@dataclass(frozen=True, slots=True)
class DoneMarker:
    """A unit that is done.

    Attributes:
        fingerprint: Hash of the input file's state, the stage and its settings.
    """

    name: str
    fingerprint: str
    rows_in: int
    rows_out: int
    counts: Mapping[str, int]
    output_bytes: int
    seconds: float


def run_record(stage: str, settings: Mapping[str, Any], rows_per_unit: int, units: Sequence[Unit]) -> dict[str, Any]:
    """What determines the content of an output folder, as JSON."""
    files = {unit.file.path.name: [unit.file.size, unit.file.mtime_ns] for unit in units}
    record = {
        "stage": stage,
        "version": version("partner-rl"),
        "settings": {**settings, "rows_per_unit": rows_per_unit},
        "input": files,
        # What tells readers of the folder whether it is whole.
        "units": len(units),
    }
    # Through JSON, so that it compares equal with what is read again.
    loaded: dict[str, Any] = json.loads(json.dumps(record, sort_keys=True))
    return loaded


def fingerprint(record: Mapping[str, Any], unit: Unit) -> str:
    """Hash of everything that determines a unit's output."""
    parts = [record["stage"], record["version"], record["settings"]]
    file = [unit.file.path.name, unit.file.size, unit.file.mtime_ns, list(unit.row_groups)]
    return hashlib.sha256(json.dumps([*parts, *file], sort_keys=True).encode()).hexdigest()


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Makes the output folder and keeps other runs out of it.

    Raises:
        PartnerError: Another run writes there, or the folder cannot be made.
    """
    try:
        (output / DONE).mkdir(parents=True, exist_ok=True)
        with FileLock(output / DONE / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise PartnerError(f"another run writes to {output}: wait for it, or choose another folder") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise PartnerError(f"{output} is a file: choose a folder") from error
    except PermissionError as error:
        raise PartnerError(f"cannot write to {output}: {error.strerror}; choose another folder") from error


def open_output(output: Path, record: Mapping[str, Any]) -> None:
    """Checks that the folder is new or was begun with the same input and settings, and removes unfinished files.

    Raises:
        PartnerError: The folder holds other results; says what differs.
    """
    path = output / DONE / RUN
    if not path.exists():
        refuse_foreign(output)
        write_json(path, record, indent=1)
        return
    refuse_difference(output, read_json(path), record)
    remove_leftovers(output)


def remove_leftovers(output: Path) -> None:
    """Deletes what processes that are gone left: unfinished files, and their counts of attempts."""
    for folder in (output, output / DONE):
        remove_unfinished(folder)
    for counter in (output / DONE).glob(f"{ATTEMPTS}*"):
        counter.unlink(missing_ok=True)


def refuse_input_folder(output: Path, source: Path) -> None:
    """Checks that an output folder is not the one that the input lies in.

    Raises:
        PartnerError: It is.
    """
    if output.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise PartnerError(f"{output} is the folder of the input: choose another one for the output")


def refuse_foreign(output: Path) -> None:
    """Checks that a folder without markers is one to write to.

    Raises:
        PartnerError: It holds Parquet files, which readers of the folder would take for results.
    """
    foreign = next(iter(sorted(output.glob("*.parquet"))), None)
    if foreign is not None:
        raise PartnerError(f"{output} holds files of something else ({foreign.name}): choose another folder")


def refuse_difference(output: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compares what a folder was made of (`run_record`) with what is wanted.

    Raises:
        PartnerError: They differ; says in what.
    """
    difference = _difference(found, wanted)
    if difference:
        raise PartnerError(f"{output} was made with {difference}: add --overwrite or choose another folder")


def remove_results(output: Path) -> None:
    """Deletes what a stage wrote into a folder: the files that have markers, the markers, unfinished files."""
    markers = output / DONE
    for path in sorted(markers.glob("*.json")):
        if path.name != RUN:
            (output / f"{path.stem}.parquet").unlink(missing_ok=True)
            path.unlink()
    remove_leftovers(output)
    # Last, so that an interruption leaves a folder that can be overwritten again.
    (markers / RUN).unlink(missing_ok=True)


def finished(output: Path, units: Sequence[Unit], record: Mapping[str, Any]) -> dict[str, DoneMarker]:
    """The markers of the units that need not be done again, by the units' names."""
    found: dict[str, DoneMarker] = {}
    for unit in units:
        path, written = output / DONE / f"{unit.name}.json", output / f"{unit.name}.parquet"
        if not path.exists() or not written.is_file():
            continue
        marker = DoneMarker(**read_json(path))
        if marker.fingerprint == fingerprint(record, unit) and marker.output_bytes == written.stat().st_size:
            found[unit.name] = marker
    return found


def write_marker(marker: DoneMarker, output: Path) -> None:
    """Writes a unit's marker; it appears complete or not at all."""
    write_json(output / DONE / f"{marker.name}.json", asdict(marker), indent=1)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of an output folder.

    Raises:
        PartnerError: It cannot be read.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PartnerError(f"{path} cannot be read: delete the folder it is in, or choose another one") from error
    return content


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What an existing folder was made with, where that is not what is wanted; empty if it is."""
    for name in ("stage", "version"):
        if found.get(name) != wanted[name]:
            return f"{name} {found.get(name)}, now it is {wanted[name]}"
    old, new = found["settings"], wanted["settings"]
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            return f"{name}={json.dumps(old.get(name))}, now it is {json.dumps(new.get(name))}"
    old, new = found["input"], wanted["input"]
    for name in sorted({*old, *new}):
        if name not in new:
            return f"the input file {name}, which is gone"
        if name not in old:
            return f"other input, without the file {name}"
        if old[name] != new[name]:
            return f"another version of the input file {name}"
    return ""
