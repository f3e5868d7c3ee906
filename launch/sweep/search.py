"""What decides on trials: Optuna proposes values, schedulers stop trials or send them on from others."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import JsonValue
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from launch.sweep.space import Point, domain
from launch.sweep.spec import Range, SweepSpec
from launch.sweep.trial import ITERATIONS
from launch.sweep.trial_records import TrialRecord
from launch.sweep.tune_internals import POINT, NamedPbt, RememberingAsha
from partner_rl.config.section import MAX_SEED

ReadRecord = Callable[[str], TrialRecord | None]
"""A trial's name → what is known of it."""


class OptunaProposals(Searcher):
    """Interrupted trials first, then new ones by Optuna's multi-objective TPE.

    The study is built anew from the trials' records, so that a resumed sweep knows what the interrupted one knew.
    """

    def __init__(
        self, spec: SweepSpec, known: Sequence[TrialRecord], pending: Sequence[Point], read: ReadRecord
    ) -> None:
        """Builds the study of all `known` trials but the `pending` ones, which go on; `read` reads a trial's record."""
        super().__init__()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._distributions = {key: distribution(values) for key, values in spec.space.items()}
        self._objectives = dict(spec.objectives)
        sides = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        directions = [sides[better] for better in self._objectives.values()]
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
        point = Point(point.number, self._decoded(asked.params))
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
        return {key: json.dumps(value) if self._is_listed(key) else value for key, value in values.items()}

    def _decoded(self, values: Mapping[str, Any]) -> dict[str, JsonValue]:
        return {key: json.loads(value) if self._is_listed(key) else value for key, value in values.items()}

    def _is_listed(self, key: str) -> bool:
        return isinstance(self._distributions[key], CategoricalDistribution)


def _seed(spec: SweepSpec, known: Sequence[TrialRecord]) -> int:
    """Another one after each resume, so that the search does not propose the same again."""
    return (spec.seed + len(known)) % (MAX_SEED + 1)


def distribution(values: Range) -> BaseDistribution:
    """A range as Optuna knows it; listed values are JSON texts, because Optuna takes neither lists nor mappings."""
    if values.values is not None:
        return CategoricalDistribution([json.dumps(value) for value in values.values])
    converted: BaseDistribution = OptunaSearch.convert_search_space({"value": domain(values)})["value"]
    return converted


def scheduler(spec: SweepSpec, iterations: int, known: Sequence[TrialRecord]) -> TrialScheduler:
    """The scheduler of a sweep whose trials have so many iterations, which remembers what earlier trials reached."""
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
