"""Guards against reward hacking and collapse: metrics over iterations, limits, alarms; pure.

A policy that has found a weakness of its rewards shows it elsewhere: it drifts from the policy it started from, says
the same to everybody, opens every sentence alike, repeats itself, writes at length, or pleases a judge that it was not
trained against less and less while its reward rises.

Each metric is looked at twice: as a mean over the last iterations whose weights halve every `guards.half_life`, and of
the newest iteration alone. A limit is passed when both are on its wrong side, so that one odd batch passes none; it is
kept again when neither is, so that one good batch does not silence an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final

from partner_rl import metric_names as names
from partner_rl.algorithm.guard_limits import LIMITS, Limit
from partner_rl.algorithm.guard_metrics import (
    GuardMetrics,
    JudgedGain,
    Measured,
    effective_number,
    largest_share,
    measured_of,
    weighted_counts,
    weighted_mean,
)
from partner_rl.algorithm.machine_metrics import MachineReading, machine_values
from partner_rl.config.guard_schema import GuardsConfig

FORMAT: Final = 2
"""Format of `Guards.state`."""
START: Final = 3
"""Iterations at a run's start that `…_kept` metrics are relative to."""
MIN_JUDGED: Final = 4
"""Judged iterations that a divergence needs: two in each half."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A limit that was passed long enough.

    Attributes:
        value: Its mean over the last iterations.
        last: Its metric of the newest iteration.
        iterations: For how many iterations it has been passed, this one included.
        age: How often this alarm was raised before.
    """

    guard: Limit
    value: float
    last: float
    limit: float
    iterations: int
    age: int = 0

    def __str__(self) -> str:
        return (
            f"{self.guard.name} {self.value:.3g} (last {self.last:.3g}) is {self.guard.side} guards.{self.guard.key} "
            f"{self.limit:.3g}, for {self.iterations} iterations now: {self.guard.advice}"
        )


@dataclass(frozen=True, slots=True)
class _Streak:
    """How long a limit has been passed.

    Attributes:
        readings: New metrics that passed it, by mean and by themselves.
        iterations: Iterations since the first of them, that one included.
        alarms: How often the alarm was raised.
    """

    readings: int = 0
    iterations: int = 0
    alarms: int = 0


class Guards:
    """Watches a run, iteration by iteration.

    Attributes:
        values: Guard or further metric → its present mean; those that cannot be told yet are missing.
    """

    def __init__(self, settings: GuardsConfig) -> None:
        """Starts with an empty window."""
        self._settings = settings
        self._window: list[GuardMetrics] = []
        self._start: list[Measured] = []
        self._judged: list[JudgedGain] = []
        self._machine: list[MachineReading] = []
        self._streaks: dict[str, _Streak] = {}
        self.values: Mapping[str, float] = {}

    @property
    def in_streak(self) -> bool:
        """Whether a limit of the policy is passed at present, be it long enough for an alarm or not."""
        return any(not guard.of_machine and guard.name in self._streaks for guard in LIMITS)

    def check(self, metrics: GuardMetrics, machine: MachineReading | None = None) -> tuple[Alarm, ...]:
        """Takes an iteration's metrics.

        Returns:
            The alarms: limits that `guards.patience` iterations have passed, with none between that kept them.
        """
        size = self._settings.window
        self._window = [*self._window, metrics][-size:]
        self._start = [*self._start, metrics.measured][:START]
        if metrics.judged is not None:
            self._judged = [*self._judged, metrics.judged][-size:]
        if machine is not None:
            self._machine = [*self._machine, machine][-size:]
        weights = [0.5 ** (age / self._settings.half_life) for age in range(len(self._window))][::-1]
        others = {**judged_values(self._judged), **machine_values(self._machine)}
        newest = {**others, **self._relative(window_values([metrics], [1.0]))}
        self.values = {
            **others,
            **self._relative(window_values(self._window, weights, self._settings.min_rewrites)),
        }
        alarms = [self._follow(guard, newest, not guard.of_judge or metrics.judged is not None) for guard in LIMITS]
        return tuple(alarm for alarm in alarms if alarm is not None)

    def _relative(self, values: Mapping[str, float]) -> dict[str, float]:
        """With sentence entropy and fluency as shares of what they were at the run's start."""
        started = len(self._start) == START
        result = {name: value for name, value in values.items() if name not in ("sentence_entropy", "fluency")}
        for name in values.keys() - result.keys():
            start = weighted_mean((getattr(measured, name) for measured in self._start), [1.0] * len(self._start))
            if started and start is not None and start > 0:
                result[f"{name}_kept"] = values[name] / start
        return result

    def _follow(self, guard: Limit, newest: Mapping[str, float], is_new: bool) -> Alarm | None:
        """Counts how long a limit has been passed; an alarm when that is long enough and the metric is new."""
        limit: float | None = getattr(self._settings, guard.key)
        mean = self.values.get(guard.name)
        before = self._streaks.get(guard.name)
        if limit is None or mean is None:
            self._streaks.pop(guard.name, None)
            return None
        last = newest.get(guard.name, mean)
        sides = guard.is_passed(mean, limit), guard.is_passed(last, limit)
        # After a resume with another limit, an old reading of the judge does not begin a streak.
        if not any(sides) or (before is None and not (all(sides) and is_new)):
            self._streaks.pop(guard.name, None)
            return None
        before = before or _Streak()
        readings = before.readings + int(all(sides) and is_new)
        is_raised = is_new and readings >= self._settings.patience
        streak = _Streak(readings, before.iterations + 1, before.alarms + int(is_raised))
        self._streaks[guard.name] = streak
        return Alarm(guard, mean, last, limit, streak.iterations, before.alarms) if is_raised else None

    def state(self) -> Mapping[str, Any]:
        """What must be saved for an exact resume, as JSON; nothing of the machine."""
        of_machine = {guard.name for guard in LIMITS if guard.of_machine}
        return {
            "format": FORMAT,
            "window": [metrics.as_json() for metrics in self._window],
            "start": [asdict(measured) for measured in self._start],
            "judged": [[judged.judge, judged.reward, judged.correlation] for judged in self._judged],
            "streaks": {
                name: [streak.readings, streak.iterations, streak.alarms]
                for name, streak in self._streaks.items()
                if name not in of_machine
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned; a window that has become smaller keeps the newest iterations."""
        size = self._settings.window
        self._window = [GuardMetrics.from_json(content) for content in state["window"]][-size:]
        self._start = [Measured(**content) for content in state["start"]]
        self._judged = [JudgedGain(*values) for values in state["judged"]][-size:]
        self._streaks = {name: _Streak(*counts) for name, counts in state["streaks"].items()}


def replay(
    rows: Sequence[Mapping[str, float | None]], settings: GuardsConfig
) -> Iterator[tuple[int, tuple[Alarm, ...]]]:
    """What the guards say of a recorded run; those whose metrics were not recorded say nothing.

    Rows are those of its `metrics.jsonl`, one an iteration, oldest first.

    Yields:
        Each iteration and its alarms.
    """
    guards = Guards(settings)
    for row in rows:
        reading = MachineReading(row.get(names.machine("memory")), row.get(names.TIME_ITERATION))
        yield int(row[names.STEP] or 0), guards.check(GuardMetrics(measured_of(row)), reading)


def window_values(
    window: Sequence[GuardMetrics], weights: Sequence[float], min_rewrites: float = 0
) -> dict[str, float]:
    """The metrics of a window of iterations; those that have nothing to stand on are missing.

    Args:
        window: The iterations, at least one.
        weights: What each counts, the newest 1.
        min_rewrites: Inserted sentences that metrics of sentences and openings need. Where fewer remain by weight, the
            window's iterations count alike in these.
    """

    def ratio(part: str, whole: str) -> float | None:
        return _ratio(
            *(sum(w * getattr(it, key) for it, w in zip(window, weights, strict=True)) for key in (part, whole))
        )

    values = {
        "noop_share": ratio("unchanged", "episodes"),
        "self_disclosure": ratio("disclosing", "episodes"),
        "length_ratio": ratio("words_rewritten", "words_original"),
        "repetition": ratio("repeated_triples", "triples"),
        **{
            name: weighted_mean((getattr(it.measured, name) for it in window), weights)
            for name in ("kl_sentence", "position_entropy", "sentence_entropy", "fluency")
        },
    }
    for candidates in (weights, [1.0] * len(window)):
        written = sum(w * sum(it.sentences.values()) for it, w in zip(window, candidates, strict=True))
        if written and written >= min_rewrites:
            values |= _sentence_values(window, candidates)
            break
    return {name: value for name, value in values.items() if value is not None}


def _sentence_values(window: Sequence[GuardMetrics], weights: Sequence[float]) -> dict[str, float | None]:
    """The metrics of what was inserted; there must be a sentence."""
    sentences = weighted_counts((it.sentences for it in window), weights)
    openings = weighted_counts((it.openings for it in window), weights)
    return {
        "commonest_share": largest_share(sentences),
        "opening_share": largest_share(openings),
        "effective_openings": effective_number(openings),
        "specificity": specificity(window, weights),
    }


def specificity(window: Sequence[GuardMetrics], weights: Sequence[float]) -> float | None:
    """Mean of `own_overlaps` plus its standard error; None with fewer than two posts.

    A handful of posts tells little. With the error added, the metric is small only where it is certain to be: a
    sentence that is said to all has 0, and no error.
    """
    pairs = list(zip(window, weights, strict=True))
    if sum(it.compared for it in window) < 2:
        return None
    posts = sum(w * it.compared for it, w in pairs)
    mean = sum(w * it.overlap for it, w in pairs) / posts
    variance = max(0.0, sum(w * it.squared_overlap for it, w in pairs) / posts - mean**2)
    effective = posts**2 / sum(w**2 * it.compared for it, w in pairs)
    return mean + math.sqrt(variance / (effective - 1.0))


def judged_values(judged: Sequence[JudgedGain]) -> dict[str, float]:
    """Gains by reward and judge over the iterations that the judge read; empty without one."""
    if not judged:
        return {}
    both = [(gain.reward, gain.judge) for gain in judged if gain.reward is not None]
    values = {
        "judge_gain": fmean(gain.judge for gain in judged),
        "reward_gain": _mean([gain.reward for gain in judged]),
        "judge_gap": _mean([reward - judge for reward, judge in both]),
        "judge_correlation": _mean([gain.correlation for gain in judged]),
        "judge_divergence": divergence(both) if len(both) >= MIN_JUDGED else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def divergence(gains: Sequence[tuple[float, float]]) -> float:
    """The reward's rise or the judge's fall from the first half of the iterations to the second, if that is smaller.

    It is above 0 only when the reward rises while the judge's gain falls. A middle iteration belongs to neither half.

    Gains are by the reward and by the judge, oldest first.
    """
    half = len(gains) // 2
    rise, change = (
        fmean(gain[which] for gain in gains[-half:]) - fmean(gain[which] for gain in gains[:half]) for which in (0, 1)
    )
    return min(rise, -change)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
