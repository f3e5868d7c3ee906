"""What decides on trials: Optuna proposes values, schedulers stop trials or send them on from others."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import JsonValue
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from launch.sweep.space import Point, domain
from launch.sweep.spec import Range, SweepSpec
from launch.sweep.trial import ITERATIONS
from launch.sweep.trial_records import TrialRecord
from partner_rl.config.section import MAX_SEED

POINT: Final = "trial"
"""Key of the point in what Tune calls a trial's configuration."""

ReadRecord = Callable[[str], TrialRecord | None]
"""A trial's name → what is known of it."""


class OptunaProposals(Searcher):
    """Interrupted trials first, then new ones by Optuna's multi-objective TPE.

    The study is built anew from the trials' records, so that a resumed sweep knows what the interrupted one knew.
    """

    def __init__(
        self, spec: SweepSpec, known: Sequence[TrialRecord], pending: Sequence[Point], read: ReadRecord
    ) -> None:
        """Builds the study."""
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._distributions = {key: distribution(values) for key, values in spec.space.items()}
        self._objectives = dict(spec.objectives)
        directions = [
            StudyDirection.MAXIMIZE if better == "max" else StudyDirection.MINIMIZE
            for better in self._objectives.values()
        ]
        # A sampler with the seed of the first start would draw the first start's trials again.
        sampler = optuna.samplers.TPESampler(seed=_seed(spec, known))
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        waiting = {point.number for point in pending}
        for record in known:
            if record.number not in waiting:
                self._study.add_trial(self._ended(record))
        self._pending = deque(pending)
        self._next = max((record.number for record in known), default=0) + 1
        self._last = spec.num_samples
        self._asked: dict[str, tuple[str, optuna.Trial]] = {}
        self._read = read

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Tune's hook: the next trial's configuration."""
        if self._pending:
            point = self._pending.popleft()
            self._study.enqueue_trial(self._encoded(point.values))
        elif self._next <= self._last:
            point = Point(self._next, {})
            self._next += 1
        else:
            # Tune's signal for the end is a text where it promises a mapping.
            return cast(dict[str, Any], Searcher.FINISHED)
        asked = self._study.ask(self._distributions)
        point = Point(point.number, {key: self._decoded(key, value) for key, value in asked.params.items()})
        self._asked[trial_id] = (point.name, asked)
        return {POINT: point.as_config()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tune's hook: tells the study how a trial ended."""
        name, asked = self._asked.pop(trial_id)
        record = self._read(name)
        values = self._values(record)
        if values is not None:
            self._study.tell(asked, values)
        else:
            stopped = record is not None and record.status != "failed" and not error
            self._study.tell(asked, state=TrialState.PRUNED if stopped else TrialState.FAIL)

    def save(self, checkpoint_path: str) -> None:
        """Tune's hook: nothing, for the trials' records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Tune's hook: nothing."""

    def _values(self, record: TrialRecord | None) -> list[float] | None:
        """The objectives of a finished trial. One that was stopped early is not compared with those that were not."""
        if record is None or record.status != "finished" or record.last is None:
            return None
        return [record.last.metrics[metric] for metric in self._objectives]

    def _ended(self, record: TrialRecord) -> FrozenTrial:
        values = self._values(record)
        state = TrialState.PRUNED if record.status == "stopped" else TrialState.FAIL
        return create_trial(
            state=state if values is None else TrialState.COMPLETE,
            values=values,
            params=self._encoded(record.values),
            distributions=self._distributions,
        )

    def _encoded(self, values: Mapping[str, JsonValue]) -> dict[str, Any]:
        return {
            key: json.dumps(value) if isinstance(self._distributions[key], CategoricalDistribution) else value
            for key, value in values.items()
        }

    def _decoded(self, key: str, value: Any) -> JsonValue:
        decoded: JsonValue = (
            json.loads(value) if isinstance(self._distributions[key], CategoricalDistribution) else value
        )
        return decoded


def _seed(spec: SweepSpec, known: Sequence[TrialRecord]) -> int:
    """Another one after each resume, so that the search does not propose the same again."""
    return (spec.seed + len(known)) % (MAX_SEED + 1)


def distribution(values: Range) -> BaseDistribution:
    """A range as Optuna knows it; listed values are JSON texts, because Optuna takes neither lists nor mappings."""
    if values.values is not None:
        return CategoricalDistribution([json.dumps(value) for value in values.values])
    if values.randint is not None:
        return IntDistribution(*values.randint)
    if values.quniform is not None:
        low, high, step = values.quniform
        return FloatDistribution(low, high, step=step)
    if values.loguniform is not None:
        return FloatDistribution(*values.loguniform, log=True)
    assert values.uniform is not None
    return FloatDistribution(*values.uniform)


def scheduler(spec: SweepSpec, iterations: int, known: Sequence[TrialRecord]) -> TrialScheduler:
    """The scheduler of a sweep, which remembers what earlier trials reached."""
    metric, mode = spec.decisive
    if spec.scheduler == "none":
        return FIFOScheduler()
    if spec.scheduler == "asha":
        asha = RememberingAsha(
            time_attr=ITERATIONS,
            metric=metric,
            mode=mode,
            max_t=iterations,
            grace_period=min(spec.grace_iterations, iterations),
            reduction_factor=spec.reduction_factor,
        )
        asha.remember(known, metric, mode)
        return asha
    # Tune's scheduler draws from the process's own generators.
    random.seed(_seed(spec, known))
    np.random.seed(_seed(spec, known))
    return NamedPbt(
        bounds={key: bounds(values) for key, values in spec.space.items()},
        time_attr=ITERATIONS,
        metric=metric,
        mode=mode,
        perturbation_interval=spec.evaluate_every,
        quantile_fraction=min(spec.pbt_quantile, 0.5),
        hyperparam_mutations={POINT: {"values": {key: _mutation(values) for key, values in spec.space.items()}}},
        log_config=False,
    )


def bounds(values: Range) -> tuple[float, float]:
    """The lowest and highest number of a range."""
    numbers = [float(value) for value in values.examples if isinstance(value, (int, float))]
    return min(numbers), max(numbers)


def _mutation(values: Range) -> Any:
    return list(values.values) if values.values is not None else domain(values)


@dataclass(frozen=True, slots=True)
class _Named:
    trial_id: str


@dataclass(frozen=True, slots=True)
class _Rungs:
    """A bracket's rungs as one trial sees them: entered under its own name instead of Tune's number of this start."""

    bracket: Any
    trial: _Named

    def on_result(self, trial: Any, iterations: int, value: float) -> str:
        return str(self.bracket.on_result(self.trial, iterations, value))


class RememberingAsha(AsyncHyperBandScheduler):
    """Tune's ASHA, with the rungs of trials that ran before the sweep was resumed."""

    def remember(self, known: Sequence[TrialRecord], metric: str, mode: str) -> None:
        """Enters the evaluations of earlier trials into the rungs.

        Rungs go by the trials' own names, so that one that goes on stands in each rung once.
        """
        sign = 1.0 if mode == "max" else -1.0
        for record in known:
            rungs = _Rungs(self._brackets[0], _Named(record.name))
            for found in record.history:
                rungs.on_result(None, found.iterations, sign * found.metrics[metric])

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Tune's hook."""
        super().on_trial_add(tune_controller, trial)
        self._trial_info[trial.trial_id] = _Rungs(self._trial_info[trial.trial_id], _Named(trial.config[POINT]["name"]))


class NamedPbt(PopulationBasedTraining):
    """Tune's PBT, in which a trial that takes over another's configuration stays itself.

    Attributes:
        bounds: Configuration key → lowest and highest value; Tune's perturbation would leave the range.
    """

    def __init__(self, bounds: Mapping[str, tuple[float, float]], **settings: Any) -> None:
        super().__init__(**settings)
        self.bounds = dict(bounds)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        changed, operations = super()._get_new_config(trial, trial_to_clone)
        identity = {key: trial.config[POINT][key] for key in ("name", "number")}
        values = {
            key: min(max(float(value), self.bounds[key][0]), self.bounds[key][1])
            for key, value in changed[POINT]["values"].items()
        }
        return {**changed, POINT: {**identity, "values": values}}, operations
