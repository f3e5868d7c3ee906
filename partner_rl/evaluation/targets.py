"""What a trained policy must show on held-out pairs, as numbers that an evaluation reaches or misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from partner_rl.evaluation.result import EvaluationResult, Figure
from partner_rl.evaluation.system import ORIGINAL, TEMPLATE
from partner_rl.types import MECHANISMS

Relation = Literal["≥", ">", "≤"]
"""How a figure must stand to its bound."""
Outcome = Literal["reached", "missed", "not measured"]
"""What became of a target."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on one figure of the trained policy.

    Attributes:
        text: What is asked for.
        measure: Key of the figure.
        relation: How it must stand to the bound.
        bound: The bound, or the factor before another system's figure.
        of_system: The system whose figure the bound is a multiple of; None for a plain bound.
        group: Key of the pairs that it is measured on.
    """

    text: str
    measure: str
    relation: Relation
    bound: float
    of_system: str | None = None
    group: str = "all"


TARGETS: Final = (
    Target("change in empathy", "change_in_empathy", "≥", 1.64),
    Target("change in empathy by the held-out judge", "judge_change", "≥", 1.2),
    Target("perplexity over the originals'", "perplexity_ratio", "≤", 1.15),
    Target("distinct-2 over the originals'", "distinct_2", "≥", 0.9, ORIGINAL),
    Target("written sentences that are distinct", "distinct_sentences", "≥", 0.9),
    Target("rewrites with the commonest sentence", "commonest_in_rewrites", "≤", 0.03),
    *(Target(f"{name.replace('_', ' ')}, change", name, ">", 0.0) for name in MECHANISMS),
    Target("specificity above the originals'", "specificity", ">", 1.0, ORIGINAL),
    Target("specificity above the template's", "specificity", ">", 1.0, TEMPLATE),
    Target("edit rate", "edit_rate", "≤", 1.0),
    Target("gain of responses at level 0", "change_in_empathy", "≥", 2.0, group="level_0"),
    Target("responses at level 4 and above made worse", "made_worse", "≤", 0.03, group="level_4-6"),
)
"""The targets of the trained policy; 1.64 is the change in empathy that the PARTNER paper reports (Table 2)."""


@dataclass(frozen=True, slots=True)
class TargetResult:
    """A target and what was measured.

    Attributes:
        target: The target.
        outcome: Whether the figure itself reaches the bound.
        certain: Whether its whole interval is on the same side of the bound.
        figure: The figure, or None when it was not measured.
        bound: The bound in the figure's unit, or None when the other system was not measured.
        pairs: Pairs that it was measured on.
    """

    target: Target
    outcome: Outcome
    certain: bool
    figure: Figure | None
    bound: float | None
    pairs: int

    def as_json(self) -> dict[str, Any]:
        """The result as JSON-able values."""
        return {
            **asdict(self.target),
            "outcome": self.outcome,
            "certain": self.certain,
            "figure": None if self.figure is None else self.figure.as_json(),
            "bound": self.bound,
            "pairs": self.pairs,
        }


def check_targets(
    result: EvaluationResult, system: str, targets: Sequence[Target] = TARGETS
) -> tuple[TargetResult, ...]:
    """Which targets a system reaches.

    Args:
        result: An evaluation.
        system: The trained policy's name in it.
        targets: What to check.
    """
    return tuple(_check(result, system, target) for target in targets)


def _check(result: EvaluationResult, system: str, target: Target) -> TargetResult:
    group = result.group(target.group)
    figure = None if group is None else group.figure(system, target.measure)
    bound: float | None = target.bound
    if group is not None and target.of_system is not None:
        other = group.figure(target.of_system, target.measure)
        bound = None if other is None else target.bound * other.value
    pairs = 0 if group is None else group.pairs
    if figure is None or bound is None:
        return TargetResult(target, "not measured", False, figure, bound, pairs)
    reached = _holds(figure.value, target.relation, bound)
    ends = () if figure.interval is None else (figure.interval.low, figure.interval.high)
    certain = bool(ends) and all(_holds(end, target.relation, bound) == reached for end in ends)
    return TargetResult(target, "reached" if reached else "missed", certain, figure, bound, pairs)


def _holds(value: float, relation: Relation, bound: float) -> bool:
    match relation:
        case "≥":
            return value >= bound
        case ">":
            return value > bound
        case _:
            return value <= bound
