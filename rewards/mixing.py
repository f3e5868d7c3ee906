"""Turns the scores of the components into one reward.

`r = w_e r_e + w_f r_f + w_c r_c + w_m r_m` (PARTNER, section 4.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from partner_rl.types import PartnerError, RewardBreakdown
from rewards.scorer import ComponentScore


def mix(scores: Mapping[str, ComponentScore], weights: Mapping[str, float]) -> RewardBreakdown:
    """The weighted sum of the components, with everything it is made of.

    Args:
        scores: Component name → its score.
        weights: Component name → its weight; names without a score must weigh nothing.

    Returns:
        The reward; the details' names become `component/detail`.

    Raises:
        PartnerError: A component with a weight has no score or the other way round, or a number is not finite.
    """
    missing = sorted(name for name, weight in weights.items() if weight != 0.0 and name not in scores)
    unknown = sorted(scores.keys() - weights.keys())
    if missing or unknown:
        raise PartnerError(
            f"reward components do not match their weights: no score for {missing}, no weight for {unknown}; "
            "give every component both"
        )
    raw = {name: float(score.value) for name, score in scores.items()}
    weighted = {name: weights[name] * value for name, value in raw.items()}
    details = {f"{name}/{key}": float(x) for name, score in scores.items() for key, x in score.details.items()}
    for name, number in [*raw.items(), *weighted.items(), *details.items()]:
        if not math.isfinite(number):
            raise PartnerError(f"reward component {name!r} is {number}: its combine() must return finite numbers")
    return RewardBreakdown(total=sum(weighted.values()), raw=raw, weighted=weighted, details=details)
