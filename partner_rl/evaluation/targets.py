"""What a trained policy must show on held-out pairs, as numbers that an evaluation reaches or misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from partner_rl.evaluation.result import EvaluationResult, MetricEstimate
from partner_rl.evaluation.system import ORIGINAL, TEMPLATE
from partner_rl.types import MECHANISMS

Relation = Literal["≥", ">", "≤"]
"""How a value must stand to its bound."""
TargetOutcome = Literal["reached", "missed", "not measured"]
"""What became of a target."""


@dataclass(frozen=True, slots=True)
class MetricTarget:
    """A bound on one metric of the trained policy.

    Attributes:
        bound: The bound, or the factor before another system's value.
        of_system: The system whose value the bound is a multiple of; None for a plain bound.
        group: Key of the pairs that it is measured on.
    """

    text: str
    metric: str
    relation: Relation
    bound: float
    of_system: str | None = None
    group: str = "all"


TARGETS: Final = (
    MetricTarget("change in empathy", "change_in_empathy", "≥", 1.64),
    MetricTarget("change in empathy by the held-out judge", "judge_change", "≥", 1.2),
    MetricTarget("perplexity over the originals'", "perplexity_ratio", "≤", 1.15),
    MetricTarget("distinct-2 over the originals'", "distinct_2", "≥", 0.9, ORIGINAL),
    MetricTarget("written sentences that are distinct", "distinct_sentences", "≥", 0.9),
    MetricTarget("rewrites with the commonest sentence", "commonest_in_rewrites", "≤", 0.03),
    *(MetricTarget(f"{name.replace('_', ' ')}, change", name, ">", 0.0) for name in MECHANISMS),
    MetricTarget("specificity above the originals'", "specificity", ">", 1.0, ORIGINAL),
    MetricTarget("specificity above the template's", "specificity", ">", 1.0, TEMPLATE),
    MetricTarget("edit rate", "edit_rate", "≤", 1.0),
    MetricTarget("gain of responses at level 0", "change_in_empathy", "≥", 2.0, group="level_0"),
    MetricTarget("responses at level 4 and above made worse", "made_worse", "≤", 0.03, group="level_4-6"),
)
"""The targets of the trained policy; 1.64 is the change in empathy that the PARTNER paper reports (Table 2)."""


@dataclass(frozen=True, slots=True)
class TargetResult:
    """A target and what was measured.

    Attributes:
        outcome: Whether the value itself reaches the bound.
        certain: Whether the whole interval is on the same side of the bound.
        estimate: What was measured, or None when it was not.
        bound: The bound in the metric's unit, or None when the other system was not measured.
    """

    target: MetricTarget
    outcome: TargetOutcome
    certain: bool
    estimate: MetricEstimate | None
    bound: float | None
    pairs: int

    def as_json(self) -> dict[str, Any]:
        """The result as JSON-able values."""
        return {
            **asdict(self.target),
            "outcome": self.outcome,
            "certain": self.certain,
            "estimate": None if self.estimate is None else self.estimate.as_json(),
            "bound": self.bound,
            "pairs": self.pairs,
        }


def check_targets(
    result: EvaluationResult, system: str, targets: Sequence[MetricTarget] = TARGETS
) -> tuple[TargetResult, ...]:
    """Which targets a system reaches."""
    return tuple(_check(result, system, target) for target in targets)


def _check(result: EvaluationResult, system: str, target: MetricTarget) -> TargetResult:
    group = result.group(target.group)
    estimate = None if group is None else group.estimate(system, target.metric)
    bound: float | None = target.bound
    if group is not None and target.of_system is not None:
        other = group.estimate(target.of_system, target.metric)
        bound = None if other is None else target.bound * other.value
    pairs = 0 if group is None else group.pairs
    if estimate is None or bound is None:
        return TargetResult(target, "not measured", False, estimate, bound, pairs)
    reached = _holds(estimate.value, target.relation, bound)
    ends = () if estimate.interval is None else (estimate.interval.low, estimate.interval.high)
    certain = bool(ends) and all(_holds(end, target.relation, bound) == reached for end in ends)
    return TargetResult(target, "reached" if reached else "missed", certain, estimate, bound, pairs)


def _holds(value: float, relation: Relation, bound: float) -> bool:
    match relation:
        case "≥":
            return value >= bound
        case ">":
            return value > bound
        case _:
            return value <= bound
