"""`partner-rl ablate`: what each part of the method is worth, by training without it.

The runs follow each other in sub-folders of one folder, each in a process of its own, so that one that fails does not
take the others along. The same command goes on where it was stopped.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from launch.console import err, out
from launch.interrupt import INTERRUPTED, stop_on_request
from launch.options import dry_run_options, with_dry_run
from launch.run_folder.folder import RunFolder
from partner_rl.storage.atomic import growing_folder, write_json, write_text
from partner_rl.storage.outputs import GrowingFolder, check_outputs
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from launch.sweep.ablations import PlannedRun

KILL_AFTER_S: Final = 60.0
"""A run that was told to stop at once has this long."""
KIND: Final = "ablation"
"""What the folder says that it is."""
REPORT: Final = "report"
"""Folder of the evaluation, beside the runs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: Exit status of its process; 0 for one that had ended before.
    """

    run: PlannedRun
    status: int

    @property
    def finished(self) -> bool:
        """Whether there is a policy to evaluate."""
        return self.status == 0


@with_dry_run
def command(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE for all runs, such as seed=1.", show_default=False)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")
    ] = "embedded",
    only: Annotated[
        str | None, typer.Option(help="NAME,NAME: these alone, and the full run.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the runs.", show_default="runs/ablation-PRESET")
    ] = None,
) -> None:
    """Train the full configuration and one run without each of its parts, and compare them.

    The same command goes on after an interruption: finished runs are passed over, the unfinished one is resumed. More
    algorithm.iterations, and whatever else may change, hold for the runs that there are, too.

    Example: `partner-rl ablate --preset embedded --only no_warm_start,no_coherence`
    """
    from launch.sweep.ablations import plan
    from partner_rl.config.inputs import input_paths

    folder = output or Path("runs") / f"ablation-{Path(preset).stem}"
    runs = plan(preset, overrides or [], only, folder)
    check_outputs([GrowingFolder(folder, KIND)], input_paths(runs[0].config))
    _check_started(runs, folder)
    if dry_run_options() is not None:
        _list(runs, folder)
        _show_first(runs[0], folder)
    _check_inputs(runs[0], folder)
    growing_folder(folder, KIND)
    outcomes = _train_all(runs, folder)
    failed = [outcome.run.ablation.name for outcome in outcomes if not outcome.finished]
    _evaluate([folder / outcome.run.ablation.name for outcome in outcomes if outcome.finished], folder / REPORT)
    _write_overview(outcomes, folder)
    out.print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} runs compared: {folder / REPORT}",
        markup=False,
        soft_wrap=True,
    )
    if failed:
        raise PartnerError(f"these runs failed: {', '.join(failed)}; the same command tries them again")


def _check_started(runs: Sequence[PlannedRun], folder: Path) -> None:
    """Refuses a folder whose runs were started with other settings: they would not be comparable.

    Raises:
        PartnerError: A key differs that may not change, or an input is gone.
    """
    from launch.training.resuming import open_to_resume

    for planned in runs:
        path = folder / planned.ablation.name
        if RunFolder(path).has_begun and (path / "config.yaml").is_file():
            try:
                open_to_resume(path, _changes(planned, path))
            except PartnerError as error:
                raise PartnerError(f"{path} cannot go on: {error}; or name another --output") from error


def _changes(planned: PlannedRun, path: Path) -> list[str]:
    """What is to change in a run that was started, as `KEY=VALUE` texts."""
    from launch.run_folder.fingerprints import Fingerprints, settings_of
    from partner_rl.config.load import Assignment

    _, stored = RunFolder.open(path)
    changes = Fingerprints(settings_of(stored), {}).changes(planned.config)
    return [str(Assignment(change.key, change.new)) for change in changes]


def _is_finished(planned: PlannedRun, path: Path) -> bool:
    """Whether the run has a policy, and nothing more to do."""
    return RunFolder(path).export.is_dir() and not ((path / "config.yaml").is_file() and _changes(planned, path))


def _check_inputs(full: PlannedRun, folder: Path) -> None:
    """Of the full run, whose models the others share."""
    from launch.preflight.check_request import run_request
    from launch.preflight.requirements import require_inputs

    require_inputs(
        full.config, run_request(full.config, evaluates=True, resumed=RunFolder(folder / full.ablation.name))
    )


def _show_first(full: PlannedRun, folder: Path) -> None:
    """The full run stands for all: they run one after the other on the same resources."""
    from launch.preflight.command_plan import new_run_plan, resumed_run_plan, show_dry_run

    run = RunFolder(folder / full.ablation.name)
    show_dry_run(resumed_run_plan(full.config, run) if run.has_begun else new_run_plan(full.config, run.path.name))


def _list(runs: Sequence[PlannedRun], folder: Path) -> None:
    for planned in runs:
        path = folder / planned.ablation.name
        state = "unfinished" if RunFolder(path).has_begun else "new"
        state = "finished" if _is_finished(planned, path) else state
        out.print(f"{planned.ablation.name} ({state}): {planned.ablation.what}", markup=False, soft_wrap=True)
        for override in planned.ablation.overrides:
            out.print(f"    {override}", soft_wrap=True)


def _train_all(runs: Sequence[PlannedRun], folder: Path) -> list[Outcome]:
    outcomes = []
    for number, planned in enumerate(runs, start=1):
        name = planned.ablation.name
        if _is_finished(planned, folder / name):
            err.print(f"{number}/{len(runs)} {name}: finished before", soft_wrap=True)
            outcomes.append(Outcome(planned, 0))
            continue
        err.print(f"{number}/{len(runs)} {name}: {planned.ablation.what}", soft_wrap=True)
        outcomes.append(Outcome(planned, _train(planned, folder)))
        if number == 1 and not outcomes[0].finished:
            _check_shared(planned, folder / name)
    return outcomes


def _check_shared(full: PlannedRun, path: Path) -> None:
    """The others can go on without the full run's policy, but not without its reward models and warm start."""
    rewards = full.config.rewards
    needed = [
        *(path / "rewards" / name for name in ("empathy", "coherence") if getattr(rewards, name).checkpoint is None),
        *([path / "warm_start"] if full.config.warmstart.checkpoint is None else []),
    ]
    missing = [str(folder.relative_to(path)) for folder in needed if not folder.is_dir()]
    if missing:
        raise PartnerError(f"the full run failed before it had {' and '.join(missing)}, which the other runs share")


def _train(planned: PlannedRun, folder: Path) -> int:
    """Trains or resumes a run in a process of its own; returns its exit status."""
    from partner_rl.config.load import save_config

    path = folder / planned.ablation.name
    if RunFolder(path).has_begun:
        return _run_command(["train", "--resume", str(path), *_changes(planned, path)])
    settings = folder / "configs" / f"{planned.ablation.name}.yaml"
    save_config(planned.config, settings)
    return _run_command(["train", "--config", str(settings)])


def _evaluate(runs: Sequence[Path], report: Path) -> None:
    """All runs on the same pairs, with the reward models that they share."""
    if not runs:
        raise PartnerError("no run has finished, so that there is nothing to compare")
    err.print("comparing the runs")
    status = _run_command(["evaluate", *map(str, runs), "--output", str(report)])
    if status:
        raise PartnerError("the runs are trained but could not be compared (see above); the same command tries again")


def _run_command(arguments: Sequence[str]) -> int:
    """Runs one of our commands in a process of its own, which saves its work when this one is asked to stop.

    Raises:
        KeyboardInterrupt: This process was asked to stop.
    """
    # In a session of its own, so that signals of the terminal reach it once: through us.
    process = subprocess.Popen([sys.executable, "-m", "launch.cli", *arguments], start_new_session=True)
    with stop_on_request("letting the run save its work") as stop_requested:
        try:
            status = _wait(process, stop_requested)
        except BaseException:
            _end(process)
            raise
        if stop_requested() or status == INTERRUPTED:
            raise KeyboardInterrupt("interrupted; the same command goes on")
    return status


def _wait(process: subprocess.Popen[bytes], stop_requested: Callable[[], bool]) -> int:
    told = False
    while True:
        try:
            return process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if not told and stop_requested():
                # A scheduler may have sent it to all processes, and one of the same moment is no second wish.
                process.send_signal(signal.SIGTERM)
                told = True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process at once, by force if need be."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _write_overview(outcomes: Sequence[Outcome], folder: Path) -> None:
    """`ablations.json` and `ablations.md`: what each run changed and whether it finished."""
    rows = [
        {
            "name": outcome.run.ablation.name,
            "what": outcome.run.ablation.what,
            "overrides": list(map(str, outcome.run.ablation.overrides)),
            "finished": outcome.finished,
        }
        for outcome in outcomes
    ]
    lines = ["# Ablations", "", f"The figures are in [{REPORT}/report.md]({REPORT}/report.md).", ""]
    lines += ["| run | change | keys | finished |", "|---|---|---|---|"]
    for outcome in outcomes:
        one = outcome.run.ablation
        keys = ", ".join(f"`{override}`" for override in one.overrides) or "–"
        lines.append(f"| {one.name} | {one.what} | {keys} | {'yes' if outcome.finished else 'no'} |")
    write_json(folder / "ablations.json", rows)
    write_text(folder / "ablations.md", "\n".join(lines) + "\n")
