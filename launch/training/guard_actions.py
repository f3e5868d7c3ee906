"""The guards of a run: what they see of each iteration, and what their alarms lead to."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from launch.resources.device import device_of
from launch.tracking.tracker import Tracker
from partner_rl import metric_names as names
from partner_rl.algorithm.guard_limits import LIMITS
from partner_rl.algorithm.guard_metrics import JudgedGain, guard_metrics, measured_of
from partner_rl.algorithm.guards import FORMAT, Alarm, Guards
from partner_rl.algorithm.machine_metrics import MachineReading
from partner_rl.algorithm.trajectory import Iteration, Trajectory
from partner_rl.config.guard_schema import GuardsConfig
from partner_rl.config.schema import RunConfig
from partner_rl.evaluation.judge import Judge, load_judge
from rewards.empathy import NAME as EMPATHY

logger = logging.getLogger(__name__)

GUARDS_STATE: Final = "guards"
"""Where the guards' state stands among `RewriteAlgorithm.extra_state`."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The run ends after this iteration's checkpoint; the reason is one line for the user."""

    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """The run goes on as the given attempt, counted from 0, from a checkpoint of fewer than `before` iterations."""

    before: int
    attempt: int


class GuardWatch:
    """Shows each iteration to the guards, and every few to the judge."""

    def __init__(self, config: RunConfig) -> None:
        """Loads the judge if the guards ask for one.

        Raises:
            PartnerError: The judge cannot be loaded.
        """
        self._settings = config.guards
        self._guards = Guards(config.guards)
        self._judge: Judge | None = None
        if config.guards.judge_every is not None and config.evaluation.judge is not None:
            self._judge = load_judge(Path(config.evaluation.judge), device_of(config), config.models.cache)

    @property
    def needs_old_checkpoints(self) -> bool:
        """Whether the checkpoints that there are may be needed for going back: those of a streak are not good."""
        return self._settings.action == "rollback" and self._guards.in_streak

    def observe(
        self, step: int, iteration: Iteration, metrics: Mapping[str, float]
    ) -> tuple[dict[str, float], tuple[Alarm, ...]]:
        """Takes an iteration into the window.

        Returns:
            The guards' metrics, and the alarms that are raised.
        """
        trajectories = [t for group in iteration.groups for t in group.trajectories]
        judged, seconds = None, {}
        if self._judge is not None and step % (self._settings.judge_every or 1) == 0:
            started = time.perf_counter()
            judged = judged_gain(self._judge, trajectories)
            seconds = {names.TIME_JUDGE: time.perf_counter() - started}
        observed = guard_metrics([t.request for t in trajectories], measured_of(metrics), judged)
        memory = host_memory()
        alarms = self._guards.check(observed, MachineReading(memory, iteration.seconds["iteration"]))
        return {**_logged(self._guards.values, alarms), names.machine("memory"): memory, **seconds}, alarms

    def report(self, step: int, alarms: Sequence[Alarm], tracker: Tracker) -> None:
        """Says what the alarms are; one that goes on is repeated once a window."""
        for alarm in alarms:
            if alarm.age % self._settings.window == 0:
                logger.warning("guard, iteration %d: %s", step, alarm)
                tracker.alert(f"Guard {alarm.guard.name}", f"Iteration {step}: {alarm}")

    def state(self) -> Mapping[str, Any]:
        """What must be saved for an exact resume, as JSON."""
        return self._guards.state()

    def restore(self, extra_state: Mapping[str, Any]) -> None:
        """Takes back the state that was saved with the training's; starts anew where there is none."""
        self._guards = Guards(self._settings)
        state = extra_state.get(GUARDS_STATE)
        if state is None:
            return
        if state.get("format") != FORMAT:
            logger.warning("the checkpoint's guards are of another version: they begin anew, as in a new run")
            return
        self._guards.restore(state)


def host_memory() -> float:
    """Share of the host's memory that is in use, 0 to 1; what can be freed at once counts as free."""
    memory = psutil.virtual_memory()
    return float(1.0 - memory.available / memory.total)


def _logged(values: Mapping[str, float], alarms: Sequence[Alarm]) -> dict[str, float]:
    """The guards' values by their metric keys, those of the machine apart."""
    of_machine = {guard.name for guard in LIMITS if guard.of_machine}
    return {
        names.guard("alarms"): float(sum(not alarm.guard.of_machine for alarm in alarms)),
        names.machine("alarms"): float(sum(alarm.guard.of_machine for alarm in alarms)),
        **{(names.machine if name in of_machine else names.guard)(name): value for name, value in values.items()},
    }


def judged_gain(judge: Judge, trajectories: Sequence[Trajectory]) -> JudgedGain:
    """Change in empathy by the judge, beside that by the reward, over at least one rewrite."""
    requests = [t.request for t in trajectories]
    before = [(request.seeker_post, request.original_response) for request in requests]
    after = [(request.seeker_post, request.rewritten_response) for request in requests]
    empathy = judge.levels([*before, *after]).sum(axis=1)
    change = empathy[len(before) :] - empathy[: len(before)]
    paid = [t.breakdown.raw[EMPATHY] for t in trajectories if EMPATHY in t.breakdown.raw]
    if len(paid) < len(trajectories):
        return JudgedGain(float(change.mean()), None, None)
    varies = np.ptp(change) > 0 and np.ptp(paid) > 0
    correlation = float(np.corrcoef(change, paid)[0, 1]) if varies else None
    return JudgedGain(float(change.mean()), float(np.mean(paid)), correlation)


def decide(alarms: Sequence[Alarm], settings: GuardsConfig, step: int, attempt: int) -> Stop | RollBack | None:
    """What the alarms of an iteration lead to in an attempt that as many rollbacks have led to.

    Those about the machine lead to nothing, as neither stopping nor going back helps it.
    """
    alarms = [alarm for alarm in alarms if not alarm.guard.of_machine]
    if not alarms or settings.action == "alarm":
        return None
    found = "; ".join(map(str, alarms))
    if settings.action == "stop":
        return Stop(f"guard: {found}; stopped after iteration {step} with a checkpoint")
    if attempt >= settings.max_rollbacks:
        return Stop(
            f"guard: {found}; stopped after iteration {step} with a checkpoint, because {attempt} rollbacks "
            "(guards.max_rollbacks) did not help"
        )
    return RollBack(before=step - max(alarm.iterations for alarm in alarms) + 1, attempt=attempt + 1)
