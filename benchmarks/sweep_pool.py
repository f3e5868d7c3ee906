"""What one pool of reward actors for all trials saves a sweep, against reward actors in each trial.

How to run:
    python -m benchmarks.sweep_pool --json sweep_pool.json
    python -m benchmarks.sweep_pool --preset smoke --concurrent 2       tiny models, to see that it works

Each row is the same grid by the real `partner-rl sweep`, in a process of its own. Reward models and warm start are made
before and not counted. Memory is that of the sweep with all its processes: the proportional set size, in which
processes that share a page share its size too.

Results to expect: as many reward actors as one trial has, instead of as many in each trial; less time until they have
loaded their models, less memory where trials run beside each other, and the same metrics of every trial.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import psutil
import typer

from benchmarks.command import ROOT, aligned_table, numbers, run_command, where
from launch.console import out, progress, set_up_logging
from launch.run_folder.folder import RunFolder
from launch.sweep.trial_records import SweepFolder
from partner_rl.config.yaml_text import dump_yaml
from partner_rl.storage.atomic import write_text
from partner_rl.types import PartnerError

NAME: Final = "python -m benchmarks.sweep_pool"
KEY: Final = "rewards.empathy.weight"
"""What the trials differ in."""
COLUMNS: Final = (
    "reward actors",
    "trials at a time",
    "seconds",
    "actors started",
    "seconds until they had loaded",
    "peak memory, MiB",
)

_COMMAND: Final = (sys.executable, "-m", "launch.cli")
_LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """One sweep.

    Attributes:
        shared: Whether all trials share one pool.
        concurrent: Trials at a time.
    """

    shared: bool
    concurrent: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{'shared' if self.shared else 'own'}-{self.concurrent}"


@dataclass(frozen=True, slots=True)
class Row:
    """What a sweep took.

    Attributes:
        shared: Whether all trials shared one pool.
        concurrent: Trials at a time.
        seconds: Of the whole command.
        trial_seconds: From the start of Ray to the end of the last trial.
        actors: Reward actors that were started.
        loading_seconds: Seconds that trials, or the sweep, waited for reward actors to load their models, added up.
        peak_mib: Most memory of all its processes together.
        metrics: Trial → metric → value.
    """

    shared: bool
    concurrent: int
    seconds: float
    trial_seconds: float
    actors: int
    loading_seconds: float
    peak_mib: float
    metrics: Mapping[str, Mapping[str, float]]


def spec_of(case: Case, base: Path, trials: int, overrides: Mapping[str, Any]) -> str:
    """A sweep's spec, as YAML.

    Args:
        case: The sweep.
        base: The configuration that trials change.
        trials: How many.
        overrides: Keys that all trials have in common.
    """
    return dump_yaml(
        {
            "base": str(base),
            "overrides": dict(overrides),
            "search": "grid",
            "space": {KEY: {"grid": [0.5 * (number + 1) for number in range(trials)]}},
            "objectives": {"change_in_empathy": "max", "perplexity": "min"},
            "share_rewards": case.shared,
            "max_concurrent": case.concurrent,
            # Small enough for both kinds of sweep to run as many trials at a time.
            "trial_cpus": 0.25,
        }
    )


def settings_of(run: RunFolder, iterations: int) -> dict[str, Any]:
    """Keys that all trials have in common, with the models of a run.

    Args:
        run: Has the reward models and the warm start.
        iterations: Of each trial.
    """
    return {
        "rewards.empathy.checkpoint": str(run.rewards / "empathy"),
        "rewards.coherence.checkpoint": str(run.rewards / "coherence"),
        "warmstart.checkpoint": str(run.warm_start),
        "rewards.num_cpus": 0.05,
        "algorithm.iterations": iterations,
        "checkpoint.every": iterations,
        "tracking.wandb": "disabled",
        "tracking.tensorboard": False,
    }


def measure(case: Case, base: Path, trials: int, settings: Mapping[str, Any], folder: Path) -> Row:
    """Runs a sweep.

    Args:
        case: The sweep.
        base: The configuration that trials change.
        trials: How many.
        settings: Keys that all trials have in common.
        folder: Receives it.

    Raises:
        PartnerError: The command failed, or ran fewer trials at a time than asked for.
    """
    spec, sweep = folder / f"{case.name}.yaml", SweepFolder(folder / case.name)
    write_text(spec, spec_of(case, base, trials, settings))
    began = time.perf_counter()
    peak = _run("sweep", spec, "--output", sweep.path)
    seconds = time.perf_counter() - began
    report = json.loads((sweep.path / "report.json").read_text(encoding="utf-8"))
    (session,) = report["sessions"]
    if session["concurrent"] < case.concurrent:
        raise PartnerError(f"--concurrent {case.concurrent}: this machine has room for {session['concurrent']} trials")
    records = sweep.records()
    last = {record.name: record.last for record in records}
    if unfinished := [name for name, found in last.items() if found is None]:
        raise PartnerError(f"{unfinished[0]} has not finished: {sweep.read(unfinished[0])}")
    return Row(
        case.shared,
        case.concurrent,
        round(seconds, 1),
        session["seconds"],
        session["shared_actors"] + sum(record.reward_actors * record.starts for record in records),
        round(session["shared_seconds"] + sum(record.seconds.get("reward actors", 0.0) for record in records), 1),
        round(peak / 2**20, 1),
        {name: found.metrics for name, found in last.items() if found is not None},
    )


def _run(*arguments: object) -> int:
    """Runs a command; returns the most memory that it and its processes had together, in bytes.

    Raises:
        PartnerError: It failed; with the end of what it said.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([*_COMMAND, *map(str, arguments)], env=environment, stdout=said, stderr=said)
        with _peak_memory(process.pid) as peak:
            try:
                process.wait()
            finally:
                # Ctrl-C reaches the command too, which ends by itself.
                process.wait()
        if process.returncode:
            said.seek(0)
            raise PartnerError(f"partner-rl {arguments[0]} failed: {' '.join(said.read()[-1000:].split())}")
    return peak[0]


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """Looks at a process and all its descendants now and then; the one number is the highest sum so far."""
    peak, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            peak[0] = max(peak[0], _memory(pid))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _memory(pid: int) -> int:
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def difference(rows: Sequence[Row]) -> float:
    """The largest difference of any metric of a trial between rows, relative to the metric."""
    found = 0.0
    for row in rows[1:]:
        for trial, metrics in row.metrics.items():
            for name, value in metrics.items():
                other = rows[0].metrics[trial][name]
                found = max(found, abs(value - other) / max(abs(value), abs(other), 1e-9))
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    return aligned_table(
        COLUMNS,
        [
            (
                "one pool for all" if row.shared else "in each trial",
                str(row.concurrent),
                f"{row.seconds:.0f}",
                str(row.actors),
                f"{row.loading_seconds:.1f}",
                f"{row.peak_mib:.0f}",
            )
            for row in rows
        ],
    )


def prepare(preset: str, overrides: Sequence[str], folder: Path) -> RunFolder:
    """A run of one iteration, which leaves reward models and a warm start.

    Args:
        preset: A preset's name or a YAML file.
        overrides: Configuration keys.
        folder: Receives it.

    Raises:
        PartnerError: The command failed.
    """
    own = ("algorithm.iterations=1", "tracking.wandb=disabled", "name=base", f"runs_dir={folder}")
    _run("train", "--preset", preset, *overrides, *own)
    return RunFolder(folder / "base")


def command(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration keys.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the measurements here.")] = None,
    preset: Annotated[str, typer.Option(help="A preset's name or a YAML file.")] = "embedded",
    run: Annotated[Path | None, typer.Option(help="Take models and configuration of this run.")] = None,
    trials: Annotated[int, typer.Option(min=2, help="Trials of a sweep.")] = 4,
    iterations: Annotated[int, typer.Option(min=1, help="Iterations of a trial.")] = 2,
    concurrent: Annotated[str, typer.Option(help="Trials at a time.")] = "1,2",
) -> None:
    """Run the same sweep with reward actors in each trial and with one pool for all, and compare what it takes.

    Example: `python -m benchmarks.sweep_pool --preset smoke --concurrent 2`
    """
    set_up_logging(logging.WARNING)
    cases = [Case(shared, count) for count in numbers("--concurrent", concurrent, 1) for shared in (False, True)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="partner-rl-sweep-") as path, progress("Sweeps") as report:
        folder = Path(path)
        report(0, len(cases))
        # A spec's base is seen from the spec's folder.
        base = prepare(preset, overrides or (), folder) if run is None else RunFolder(run.absolute())
        settings = settings_of(base, iterations)
        for case in cases:
            rows.append(measure(case, base.config_file, trials, settings, folder))
            report(len(rows), len(cases))
    out.print(table(rows), soft_wrap=True, markup=False)
    out.print(f"largest difference between metrics of a trial: {difference(rows):.1e}")
    if json_file is not None:
        content = {
            **where(),
            "trials": trials,
            "iterations": iterations,
            "largest_difference": difference(rows),
            "rows": [asdict(row) for row in rows],
        }
        write_text(json_file, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    run_command(command, NAME)
