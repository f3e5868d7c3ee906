"""The private parts of Tune that a sweep needs, each with the public interface that is lacking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining

from launch.sweep.trial_records import TrialRecord

POINT: Final = "trial"
"""Key of the point in what Tune calls a trial's configuration."""


@dataclass(frozen=True, slots=True)
class _NamedBracket:
    """A bracket's rungs as one trial sees them: entered under its own name instead of Tune's number of this start."""

    bracket: Any
    name: str

    def on_result(self, trial: Any, iterations: int, value: float) -> str:
        return str(self.bracket.on_result(SimpleNamespace(trial_id=self.name), iterations, value))


class RememberingAsha(AsyncHyperBandScheduler):
    """Tune's ASHA, with the rungs of trials that ran before the sweep was resumed.

    Tune restores a scheduler only from its own pickle; there is no public way to enter results into the rungs.
    """

    def remember(self, known: Sequence[TrialRecord], metric: str, mode: str) -> None:
        """Enters the evaluations of earlier trials, by name: one that goes on stands in each rung once."""
        sign = 1.0 if mode == "max" else -1.0
        for record in known:
            rungs = _NamedBracket(self._brackets[0], record.name)
            for found in record.history:
                rungs.on_result(None, found.iterations, sign * found.metrics[metric])

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Tune's hook."""
        super().on_trial_add(tune_controller, trial)
        bracket = self._trial_info[trial.trial_id]
        self._trial_info[trial.trial_id] = _NamedBracket(bracket, trial.config[POINT]["name"])


class NamedPbt(PopulationBasedTraining):
    """Tune's PBT, in which a trial that takes over another's configuration stays itself.

    Tune has no public hook for what a trial keeps of its own, nor bounds for perturbed values
    (`custom_explore_fn` sees the new configuration only).
    """

    def __init__(self, bounds: Mapping[str, tuple[float, float]], **settings: Any) -> None:
        """Takes PBT's settings and, by configuration key, the lowest and highest value."""
        super().__init__(**settings)
        self._bounds = dict(bounds)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        changed, operations = super()._get_new_config(trial, trial_to_clone)
        identity = {key: trial.config[POINT][key] for key in ("name", "number")}
        values = {
            key: min(max(float(value), self._bounds[key][0]), self._bounds[key][1])
            for key, value in changed[POINT]["values"].items()
        }
        return {**changed, POINT: {**identity, "values": values}}, operations
