"""Ray Tune's part of a sweep: trials in placement groups, as many at a time as there is room for."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ray import tune
from ray.tune.schedulers import TrialScheduler

from launch.console import err
from launch.sweep.remaining import RemainingTrials
from launch.sweep.search import OptunaProposals, scheduler
from launch.sweep.space import Point
from launch.sweep.spec import SweepSpec
from launch.sweep.trial import ENDED
from launch.sweep.trial_records import SweepFolder, TrialRecord
from launch.sweep.tune_internals import POINT
from partner_rl.cluster.local_ray import own_handlers
from partner_rl.progress import Progress

RunTrial = Callable[[Mapping[str, Any]], None]
"""What runs in a trial's process: given Tune's configuration, with the point under `trial`."""

SHOWN_METRICS: Final = 3
"""Objectives on the line that says how a trial ended."""

_TUNE: Final = {
    # Tune would write files of metrics; ours are the records.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Signals end the sweep through `launch.interrupt`.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Relative paths of the configuration are seen from the user's folder.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # A process whose trial takes this long to clean up is not used again.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}


def set_up_tune() -> None:
    """Sets Tune's environment; before Ray is started, so that its processes have it too."""
    for name, value in _TUNE.items():
        os.environ[name] = value
    # How trials end is said by `Watcher`, in one line.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)


def run_trials(
    folder: SweepFolder,
    remaining: RemainingTrials,
    run: RunTrial,
    bundles: Sequence[Mapping[str, float]],
    concurrent: int | None,
    report: Progress,
) -> Watcher:
    """Runs trials until none is left; one that fails does not take the others along.

    `bundles` are what Ray reserves for a trial, its own process first; without `concurrent` as many run at a time
    as Ray finds room for; `report` is told how many have ended.

    Returns:
        Who knows how the trials ended; to be settled when their processes are gone.
    """
    spec = remaining.spec
    shutil.rmtree(folder.scratch, ignore_errors=True)
    watcher = Watcher(folder, remaining, report)
    decides: TrialScheduler = scheduler(spec, remaining.iterations, remaining.known)
    points = [point.as_config() for point in remaining.pending]
    proposals = (
        OptunaProposals(spec, remaining.known, remaining.pending, folder.read) if spec.search == "optuna" else None
    )
    factory = tune.PlacementGroupFactory([dict(bundle) for bundle in bundles])
    tuner = tune.Tuner(
        tune.with_resources(_named(run), factory),
        param_space={} if proposals is not None else {POINT: tune.grid_search(points)},
        tune_config=tune.TuneConfig(
            search_alg=proposals,
            scheduler=decides,
            num_samples=remaining.count if proposals is not None else 1,
            max_concurrent_trials=concurrent,
            # Starting a process with torch and RLlib takes longer than some trials.
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.scratch.absolute()),
            failure_config=tune.FailureConfig(max_failures=spec.retries),
            callbacks=[watcher],
            # Without it PBT would send a finished trial on from another one.
            stop={ENDED: 1},
            verbose=0,
        ),
    )
    report(0, remaining.count)
    # Tune would take SIGUSR1 for a wish to end as if all trials had.
    with own_handlers():
        tuner.fit()
    return watcher


def _named(run: RunTrial) -> RunTrial:
    """The trial as Tune wants it: a function whose only argument is called `config`."""

    def trial(config: Mapping[str, Any]) -> None:
        run(config)

    return trial


def _name(trial: Any) -> str:
    return str(trial.config[POINT]["name"])


class Watcher(tune.Callback):
    """Writes down how trials ended that could not do it themselves, and says so on the terminal."""

    def __init__(self, folder: SweepFolder, remaining: RemainingTrials, report: Progress) -> None:
        self._folder, self._remaining, self._report = folder, remaining, report
        # Name → point and why it failed, None for a trial that did not.
        self._ended: dict[str, tuple[Mapping[str, Any], str | None]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks to go on later, which is the records' business here."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's hook: a trial has finished, or the scheduler has stopped it."""
        self._end(trial.config[POINT], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune's hook: a trial has failed for good."""
        self._end(trial.config[POINT], _last_line(trial.error_file))

    def settle(self) -> None:
        """Writes the ends down again, as a process on its way out may have written since, and removes Tune's files."""
        shutil.rmtree(self._folder.scratch, ignore_errors=True)
        for point, reason in self._ended.values():
            _write_end(self._folder, point, reason)

    def _end(self, point: Mapping[str, Any], reason: str | None) -> None:
        self._ended[point["name"]] = (point, reason)
        record = _write_end(self._folder, point, reason)
        err.print(describe_end(record, self._remaining.spec), soft_wrap=True)
        self._report(len(self._ended), self._remaining.count)


def _write_end(folder: SweepFolder, point: Mapping[str, Any], reason: str | None) -> TrialRecord:
    """The record of a trial that has ended; a process that was lost could not write it itself."""
    found = Point.from_config(point)
    record = folder.known_or_new(found)
    if record.status != "running":
        return record
    if reason is None:
        return folder.update(found, status="stopped")
    return folder.update(found, status="failed", reason=f"its process was lost: {reason}", transient=True)


def describe_end(record: TrialRecord, spec: SweepSpec) -> str:
    """A trial's end in one line."""
    if record.status == "failed":
        return f"{record.name} failed: {record.reason}"
    if record.last is None:
        return f"{record.name} {record.status}"
    ended, metrics = f"{record.name} {record.status} after {record.last.iterations} iterations", record.last.metrics
    shown = ", ".join(
        f"{name} {metrics[name]:.4g}" for name in list(spec.objectives)[:SHOWN_METRICS] if name in metrics
    )
    return f"{ended}: {shown}" if shown else ended


def _last_line(path: str | None) -> str:
    """The last line of Tune's error file, which names the exception."""
    if path is None or not Path(path).is_file():
        return "see Ray's logs"
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "see Ray's logs"
