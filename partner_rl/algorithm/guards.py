"""Guards against reward hacking and collapse: figures over a window of iterations, limits, alarms; pure.

A policy that has found a weakness of its rewards shows it elsewhere: it drifts from the policy it started from, says
the same to everybody, repeats itself, writes at length, or pleases a judge that it was not trained against less and
less while its reward rises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from partner_rl.algorithm.guard_figures import GuardFigures, JudgedGain
from partner_rl.config.schema import GuardsConfig

COMMONEST: Final = 20
"""`common_share` is the share of this many commonest sentences."""
MIN_JUDGED: Final = 4
"""Judged iterations that a divergence needs: two in each half."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A guard's limit.

    Attributes:
        name: The guard, as in its metric.
        key: The configuration key under `guards`.
        is_upper: Whether the figure must stay at or below it (else at or above).
        of_judge: Whether only iterations that the judge read say anything new.
    """

    name: str
    key: str
    is_upper: bool
    of_judge: bool = False

    def is_passed(self, value: float, limit: float) -> bool:
        """Whether a figure is on the wrong side; one that is not a number is."""
        return not (value <= limit if self.is_upper else value >= limit)


LIMITS: Final = (
    Limit("kl", "max_kl", True),
    Limit("length_ratio", "max_length_ratio", True),
    Limit("repetition", "max_repetition", True),
    Limit("distinct_2", "min_distinct_2", False),
    Limit("common_share", "max_common_share", True),
    Limit("self_disclosure", "max_self_disclosure", True),
    Limit("noop_share", "max_noop_share", True),
    Limit("position_entropy", "min_position_entropy", False),
    Limit("judge_gap", "max_judge_gap", True, of_judge=True),
    Limit("judge_divergence", "max_judge_divergence", True, of_judge=True),
)
"""All guards."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A limit that was passed long enough.

    Attributes:
        guard: The guard.
        value: Its figure.
        limit: The limit.
        readings: How often in a row it was found passed.
        iterations: For how many iterations it has been passed, this one included: more than readings where a figure is
            not new in every iteration.
    """

    guard: Limit
    value: float
    limit: float
    readings: int
    iterations: int

    def __str__(self) -> str:
        side = "above" if self.guard.is_upper else "below"
        return (
            f"{self.guard.name} {self.value:.3g} is {side} guards.{self.guard.key} {self.limit:.3g}, "
            f"for {self.iterations} iterations in a row"
        )


@dataclass(frozen=True, slots=True)
class _Streak:
    """For how many readings and iterations a limit has been passed."""

    readings: int = 0
    iterations: int = 0


class Guards:
    """Watches a run, iteration by iteration.

    Attributes:
        values: Guard or further figure → value over the present window; those that cannot be told yet are missing.
    """

    def __init__(self, settings: GuardsConfig) -> None:
        """Starts with an empty window.

        Args:
            settings: Window, patience and limits.
        """
        self._settings = settings
        self._window: list[GuardFigures] = []
        self._judged: list[JudgedGain] = []
        self._streaks: dict[str, _Streak] = {}
        self.values: Mapping[str, float] = {}

    @property
    def in_streak(self) -> bool:
        """Whether a limit is passed at present, be it long enough for an alarm or not."""
        return bool(self._streaks)

    def check(self, figures: GuardFigures) -> tuple[Alarm, ...]:
        """Takes an iteration's figures into the window.

        Returns:
            The alarms: limits that have been passed in `guards.patience` iterations in a row, and still are.
        """
        size = self._settings.window
        self._window = [*self._window, figures][-size:]
        if figures.judged is not None:
            self._judged = [*self._judged, figures.judged][-size:]
        self.values = {
            **window_values(self._window, self._settings.min_rewrites),
            **judged_values(self._judged),
        }
        alarms = [self._follow(guard, new=not guard.of_judge or figures.judged is not None) for guard in LIMITS]
        return tuple(alarm for alarm in alarms if alarm is not None)

    def _follow(self, guard: Limit, *, new: bool) -> Alarm | None:
        """Counts how long a limit has been passed; an alarm when that is long enough and the figure is new."""
        limit: float | None = getattr(self._settings, guard.key)
        value = self.values.get(guard.name)
        if limit is None or value is None or not guard.is_passed(value, limit):
            self._streaks.pop(guard.name, None)
            return None
        before = self._streaks.get(guard.name)
        if before is None and not new:
            # Found passed after a resume with another limit: the next reading counts as the first.
            return None
        before = before or _Streak()
        streak = self._streaks[guard.name] = _Streak(before.readings + int(new), before.iterations + 1)
        if not new or streak.readings < self._settings.patience:
            return None
        return Alarm(guard, value, limit, streak.readings, streak.iterations)

    def state(self) -> Mapping[str, Any]:
        """What must be saved for an exact resume, as JSON."""
        return {
            "window": [figures.as_json() for figures in self._window],
            "judged": [[judged.judge, judged.reward, judged.correlation] for judged in self._judged],
            "streaks": {name: [streak.readings, streak.iterations] for name, streak in self._streaks.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned; a window that has become smaller keeps the newest iterations."""
        size = self._settings.window
        self._window = [GuardFigures.from_json(content) for content in state["window"]][-size:]
        self._judged = [JudgedGain(*values) for values in state["judged"]][-size:]
        self._streaks = {name: _Streak(*counts) for name, counts in state["streaks"].items()}


def window_values(window: Sequence[GuardFigures], min_rewrites: int) -> dict[str, float]:
    """The figures of a window of iterations; those that have nothing to stand on are missing.

    Args:
        window: The iterations, at least one.
        min_rewrites: Inserted sentences that `distinct_2` and `common_share` need.
    """
    values = {
        "noop_share": _ratio(sum(it.unchanged for it in window), sum(it.episodes for it in window)),
        "self_disclosure": _ratio(sum(it.disclosing for it in window), sum(it.episodes for it in window)),
        "length_ratio": _ratio(sum(it.words_rewritten for it in window), sum(it.words_original for it in window)),
        "repetition": _ratio(sum(it.repeated_triples for it in window), sum(it.triples for it in window)),
        "position_entropy": fmean(it.position_entropy for it in window),
        "kl": _mean([it.kl for it in window]),
    }
    sentences = sum((Counter(it.sentences) for it in window), Counter[int]())
    written = sentences.total()
    if written >= min_rewrites:
        different = len(set[int]().union(*(it.pair_hashes for it in window)))
        values["distinct_2"] = _ratio(different, sum(it.pairs for it in window))
        values["common_share"] = sum(count for _, count in sentences.most_common(COMMONEST)) / written
    return {name: value for name, value in values.items() if value is not None}


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

    Args:
        gains: Gain by the reward and by the judge of each iteration, oldest first.
    """
    half = len(gains) // 2
    rise, change = (
        fmean(gain[which] for gain in gains[-half:]) - fmean(gain[which] for gain in gains[:half]) for which in (0, 1)
    )
    return min(rise, -change)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
