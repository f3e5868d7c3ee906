"""The trials of a sweep that have not ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from launch.run_folder.fingerprints import Fingerprints, settings_of
from launch.run_folder.folder import RunFolder
from launch.sweep.opening import Sweep
from launch.sweep.sharing import shared_keys
from launch.sweep.space import Point
from launch.sweep.spec import SweepSpec
from launch.sweep.trial import own_config
from launch.sweep.trial_records import TrialRecord


@dataclass(frozen=True, slots=True)
class RemainingTrials:
    """What is left to do of a sweep.

    Attributes:
        known: All trials that were started before.
        pending: Trials to run whose values are known: interrupted ones, and those of a grid or random search.
        proposals: Trials that Optuna is still to propose.
        iterations: Iterations of a trial.
    """

    spec: SweepSpec
    known: Sequence[TrialRecord]
    pending: Sequence[Point]
    proposals: int
    iterations: int

    @property
    def count(self) -> int:
        """How many trials are left."""
        return len(self.pending) + self.proposals


def remaining_trials(sweep: Sweep, *, retry_failed: bool = False) -> RemainingTrials:
    """The trials that have not ended; with `retry_failed`, those that failed have not."""
    spec, known, iterations = sweep.spec, sweep.folder.records(), sweep.config.algorithm.iterations
    unfinished = [r for r in known if r.status == "running" or r.is_to_be_retried(all_failed=retry_failed)]
    # With PBT a trial goes on with the weights that it has by now.
    going_on = {record.name: record.point for record in [*unfinished, *_outdated(sweep, known)]}
    if sweep.points is None:
        proposals = max(0, spec.num_samples - max((record.number for record in known), default=0))
        return RemainingTrials(spec, known, list(going_on.values()), proposals, iterations)
    ended = {record.name for record in known} - set(going_on)
    pending = [going_on.get(point.name, point) for point in sweep.points if point.name not in ended]
    return RemainingTrials(spec, known, pending, 0, iterations)


def _outdated(sweep: Sweep, known: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Finished trials that go on because their configuration has changed since."""
    if sweep.evaluates:
        return []
    shared, gpus = shared_keys(sweep.config, sweep.folder, sweep.share), torch.cuda.device_count()

    def has_changed(record: TrialRecord) -> bool:
        _, stored = RunFolder.open(sweep.folder.run(record.name).path)
        config = sweep.config_of({**shared, **record.values})
        now = own_config(config, sweep.spec, sweep.folder, record.name, gpus)
        return bool(Fingerprints(settings_of(stored), {}).changes(now))

    return [record for record in known if record.status == "finished" and has_changed(record)]
