"""What an evaluation found: figures with intervals, comparisons, and the same by the original's empathy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from partner_rl.evaluation.measures import MEASURES
from partner_rl.evaluation.pair_scores import PairScores
from partner_rl.evaluation.resampling import Bools, Interval
from partner_rl.types import Example


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of one system.

    Attributes:
        value: Its value.
        interval: Its 95 % interval over pairs, or None where there are too few.
    """

    value: float
    interval: Interval | None

    def as_json(self) -> dict[str, float | None]:
        """The figure as JSON-able values."""
        low, high = (self.interval.low, self.interval.high) if self.interval is not None else (None, None)
        return {"value": self.value, "low": low, "high": high}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A system against the reference system on one measure, pair by pair.

    Attributes:
        difference: The system's figure minus the reference's; for perplexity the ratio of the two.
        p: Two-sided p value of the paired permutation test.
        p_holm: The same, corrected by Holm's method for all systems that are compared on this measure.
    """

    difference: Figure
    p: float
    p_holm: float

    def as_json(self) -> dict[str, float | None]:
        """The comparison as JSON-able values."""
        return {**self.difference.as_json(), "p": self.p, "p_holm": self.p_holm}


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """A system's figures on a group of pairs.

    Attributes:
        name: The system.
        figures: Measure → figure; measures that do not apply are left out.
        comparisons: Measure → comparison with the reference system; empty for that system itself.
    """

    name: str
    figures: Mapping[str, Figure]
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON-able values."""
        return {
            "figures": {key: figure.as_json() for key, figure in self.figures.items()},
            "comparisons": {key: comparison.as_json() for key, comparison in self.comparisons.items()},
        }


@dataclass(frozen=True, slots=True)
class Group:
    """The systems on some of the pairs.

    Attributes:
        key: Its name in files: `all`, `level_0`, `level_1-2`, `level_4-6` and so on.
        title: Its name in tables.
        pairs: Pairs in it.
        systems: Figures of each system, in the order of the report.
    """

    key: str
    title: str
    pairs: int
    systems: tuple[SystemFigures, ...]

    def system(self, name: str) -> SystemFigures | None:
        """A system's figures, or None when it was not evaluated."""
        return next((system for system in self.systems if system.name == name), None)

    def figure(self, system: str, measure: str) -> Figure | None:
        """A figure, or None when there is none."""
        found = self.system(system)
        return None if found is None else found.figures.get(measure)


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An evaluation of several systems on the same pairs.

    Attributes:
        examples: The pairs, `N` of them.
        levels_N: Empathy of each original response: its label, or the classifier's decision where it has none.
        labelled: Pairs that have a label.
        headline_N: Which pairs the main table is of: those that training would rewrite.
        scores: Each system's scores of all pairs.
        reference: The system that the others are compared with.
        headline: The main table.
        groups: The same by the original's empathy.
        judged: Whether a held-out judge took part.
    """

    examples: tuple[Example, ...]
    levels_N: npt.NDArray[np.int64]
    labelled: int
    headline_N: Bools
    scores: tuple[PairScores, ...]
    reference: str
    headline: Group
    groups: tuple[Group, ...]
    judged: bool

    def group(self, key: str) -> Group | None:
        """A group by its key, the main table included, or None when it has no pairs."""
        return next((group for group in (self.headline, *self.groups) if group.key == key), None)

    def as_json(self) -> dict[str, Any]:
        """All figures as JSON-able values; no texts."""
        return {
            "pairs": {
                "all": len(self.examples),
                "main_table": self.headline.pairs,
                "labelled": self.labelled,
                "by_level": {str(level): int((self.levels_N == level).sum()) for level in sorted(set(self.levels_N))},
            },
            "reference": self.reference,
            "measures": {
                measure.key: {"label": measure.label, "better": measure.better, "definition": measure.definition}
                for measure in MEASURES
            },
            "systems": {
                system.name: {"note": scores.note, "pairs": self.headline.pairs, **system.as_json()}
                for system, scores in zip(self.headline.systems, self.scores, strict=True)
            },
            "by_original_empathy": {
                group.key: {
                    "title": group.title,
                    "pairs": group.pairs,
                    "systems": {system.name: system.as_json()["figures"] for system in group.systems},
                }
                for group in self.groups
            },
        }
