"""How curating scales: time and memory at growing numbers of rows.

How to run:
    python benchmarks/curate_scale.py --rows 10000 100000 1000000 --workers 1 --output curate_scale

Writes `OUTPUT.md` and `OUTPUT.json`. For each size a corpus is generated and curated by the real command in a process
of its own, whose process tree is looked at several times a second.

Results to expect: after some seconds for starting Ray, time grows linearly; memory of the workers does not depend on
the number of rows, that of the driver grows by about 40 bytes a row for finding duplicates (and by the mapped
signatures, 128 bytes a row, which the system may drop at any time).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import psutil

from partner_rl.data.synthetic import CorpusSettings, generate
from partner_rl.text.markdown import markdown_table

INTERVAL_S: Final = 0.2
MIB: Final = 2**20

WORKER_MARKS: Final = ("ray::",)
"""Beginnings of the process titles of Ray's actors and idle workers; what else the command starts are Ray's daemons."""


@dataclass
class Peak:
    """Peak memory of the parts of a process tree, MiB.

    Attributes:
        driver: Resident memory of the command.
        driver_private: The same without mapped files and shared memory.
        workers: Resident memory of all workers together, without shared memory.
        daemons: Resident memory of Ray's own processes.
        object_store: Shared memory that they hold.
    """

    driver: float = 0.0
    driver_private: float = 0.0
    workers: float = 0.0
    daemons: float = 0.0
    object_store: float = 0.0

    def look(self, root: psutil.Process) -> None:
        """Takes the present state into account."""
        now = Peak()
        for process in _tree(root):
            try:
                memory, line = process.memory_info(), " ".join(process.cmdline())
            except psutil.Error:
                continue
            private = (memory.rss - memory.shared) / MIB
            if process.pid == root.pid:
                now.driver, now.driver_private = memory.rss / MIB, private
            elif line.startswith(WORKER_MARKS):
                now.workers += private
            else:
                now.daemons += private
                now.object_store = max(now.object_store, memory.shared / MIB)
        for name, value in asdict(now).items():
            setattr(self, name, max(getattr(self, name), value))


@dataclass
class Measurement:
    """One size.

    Attributes:
        rows: Pairs curated.
        seconds: Wall time of the command, Ray's start included.
        kept: Pairs written.
        peak: Memory.
    """

    rows: int
    seconds: float
    kept: int
    peak: Peak = field(default_factory=Peak)


def measure(rows: int, workers: int, folder: Path) -> Measurement:
    """Generates and curates a corpus."""
    source, output = folder / "in", folder / "out"
    generate(CorpusSettings(rows), source)
    command = [sys.executable, "-m", "launch.cli", "data", "curate", str(source), str(output)]
    peak = Peak()
    started = time.monotonic()
    with (folder / "log").open("w") as log:
        process = psutil.Popen([*command, "--workers", str(workers)], stdout=log, stderr=log)
        while process.poll() is None:
            peak.look(process)
            time.sleep(INTERVAL_S)
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit((folder / "log").read_text())
    kept = json.loads((output / "counts.json").read_text())["kept"]
    return Measurement(rows, seconds, kept, peak)


def markdown(measurements: list[Measurement]) -> str:
    """The measurements as a table."""
    columns = ("rows", "kept", "seconds", "rows/s", "driver MiB (private)", "workers MiB", "Ray's own MiB")
    rows = []
    for m in measurements:
        p = m.peak
        memory = (f"{p.driver:.0f} ({p.driver_private:.0f})", *(f"{mib:.0f}" for mib in (p.workers, p.daemons)))
        throughput = (f"{m.rows:,}", f"{m.kept:,}", f"{m.seconds:.1f}", f"{m.rows / m.seconds:,.0f}")
        rows.append((*throughput, *memory, f"{p.object_store:.0f}"))
    return markdown_table((*columns, "object store MiB"), rows) + "\n"


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def main() -> None:
    """Measures every size and writes the table."""
    parser = argparse.ArgumentParser(description="Time and memory of `partner-rl data curate`.")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("curate_scale"))
    arguments = parser.parse_args()
    measurements = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            measurements.append(measure(rows, arguments.workers, Path(folder)))
        print(markdown(measurements[-1:]).splitlines()[-1], flush=True)
    table = markdown(measurements)
    arguments.output.with_suffix(".md").write_text(table)
    content = {"workers": arguments.workers, "cores": psutil.cpu_count(), "sizes": [asdict(m) for m in measurements]}
    arguments.output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    print(table)


if __name__ == "__main__":
    main()
