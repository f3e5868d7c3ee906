"""What an evaluation found: metrics with intervals, comparisons, and the same by the original's empathy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from partner_rl.evaluation.metric_definitions import METRICS, Metric
from partner_rl.evaluation.resampling import Bools, Interval
from partner_rl.evaluation.system_scores import SystemScores
from partner_rl.types import Example


@dataclass(frozen=True, slots=True)
class MetricEstimate:
    """A metric's value and its 95 % interval over pairs; None where there are too few, or where none was asked for."""

    value: float
    interval: Interval | None

    def as_json(self) -> dict[str, float | None]:
        """The value and the ends of its interval."""
        low, high = (self.interval.low, self.interval.high) if self.interval is not None else (None, None)
        return {"value": self.value, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system against the reference system on one metric, pair by pair.

    Attributes:
        difference: The system's value minus the reference's; for perplexity the ratio of the two.
        p: Two-sided p value of the paired permutation test.
        p_holm: The same, corrected by Holm's method for all systems that are compared on this metric.
    """

    difference: MetricEstimate
    p: float
    p_holm: float

    def as_json(self) -> dict[str, float | None]:
        """The difference and the p values."""
        return {**self.difference.as_json(), "p": self.p, "p_holm": self.p_holm}


@dataclass(frozen=True, slots=True)
class SystemMetrics:
    """A system's metrics on a group of pairs, by key.

    Metrics that do not apply are left out; the reference system has no comparisons.
    """

    name: str
    metrics: Mapping[str, MetricEstimate]
    comparisons: Mapping[str, Comparison]

    def as_json(self) -> dict[str, Any]:
        """Metrics and comparisons as JSON-able values."""
        return {
            "metrics": {key: estimate.as_json() for key, estimate in self.metrics.items()},
            "comparisons": {key: comparison.as_json() for key, comparison in self.comparisons.items()},
        }


@dataclass(frozen=True, slots=True)
class Group:
    """The systems, in the order of the report, on some of the pairs.

    Attributes:
        key: Its name in files: `all`, `level_0`, `level_1-2`, `level_4-6` and so on.
    """

    key: str
    title: str
    pairs: int
    systems: tuple[SystemMetrics, ...]

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that apply to some of the systems, in the order of the report."""
        return [metric for metric in METRICS if any(metric.key in system.metrics for system in self.systems)]

    def system(self, name: str) -> SystemMetrics | None:
        """A system's metrics, or None when it was not evaluated."""
        return next((system for system in self.systems if system.name == name), None)

    def estimate(self, system: str, metric: str) -> MetricEstimate | None:
        """A system's metric, or None when there is none."""
        found = self.system(system)
        return None if found is None else found.metrics.get(metric)


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An evaluation of several systems on the same `N` pairs.

    Attributes:
        levels_N: Empathy of each original response: its label, or the classifier's decision where it has none.
        headline_N: Which pairs the main table is of: those that training would rewrite.
        groups: The same by the original's empathy.
    """

    examples: tuple[Example, ...]
    levels_N: npt.NDArray[np.int64]
    labelled: int
    headline_N: Bools
    scores: tuple[SystemScores, ...]
    reference: str
    headline: Group
    groups: tuple[Group, ...]
    judged: bool

    def group(self, key: str) -> Group | None:
        """A group by its key, the main table included, or None when it has no pairs."""
        return next((group for group in (self.headline, *self.groups) if group.key == key), None)

    def as_json(self) -> dict[str, Any]:
        """All metrics as JSON-able values; no texts."""
        return {
            "pairs": {
                "all": len(self.examples),
                "main_table": self.headline.pairs,
                "labelled": self.labelled,
                "by_level": {str(level): int((self.levels_N == level).sum()) for level in sorted(set(self.levels_N))},
            },
            "reference": self.reference,
            "metrics": {
                metric.key: {"label": metric.label, "better": metric.better, "definition": metric.definition}
                for metric in METRICS
            },
            "systems": {
                system.name: {"note": scores.note, "pairs": self.headline.pairs, **system.as_json()}
                for system, scores in zip(self.headline.systems, self.scores, strict=True)
            },
            "by_original_empathy": {
                group.key: {
                    "title": group.title,
                    "pairs": group.pairs,
                    "systems": {system.name: system.as_json()["metrics"] for system in group.systems},
                }
                for group in self.groups
            },
        }
