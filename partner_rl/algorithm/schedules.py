"""Weights of reward components that change from iteration to iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from partner_rl.config.reward_schema import RewardsConfig
from partner_rl.types import PartnerError, RewardBreakdown


def weight_at(points: Sequence[tuple[int, float]], iteration: int) -> float:
    """The weight at an iteration (counted from 1): linear between points, constant before the first and after the last.

    Args:
        points: (iteration, weight), ascending.
        iteration: The iteration.
    """
    return float(np.interp(iteration, [at for at, _ in points], [weight for _, weight in points]))


def constant_weights(rewards: RewardsConfig) -> dict[str, float]:
    """Component → weight as configured, without schedules."""
    return {name: section.weight for name, section in rewards.components().items()}


def scheduled_weights(rewards: RewardsConfig, iteration: int) -> dict[str, float]:
    """Component → weight at an iteration (counted from 1), for the components with a schedule."""
    return {
        name: weight_at(section.schedule, iteration)
        for name, section in rewards.components().items()
        if section.schedule is not None
    }


def reweighted(breakdown: RewardBreakdown, weights: Mapping[str, float]) -> RewardBreakdown:
    """The breakdown with some components' weights replaced.

    Args:
        breakdown: A reward, mixed with the constant weights.
        weights: Component → its weight now; the other components keep theirs.

    Raises:
        PartnerError: A component with a weight other than 0 was not scored.
    """
    if not weights:
        return breakdown
    missing = sorted(name for name, weight in weights.items() if weight != 0.0 and name not in breakdown.raw)
    if missing:
        raise PartnerError(
            f"the schedule of {', '.join(missing)} gives a weight to a reward that is not scored: "
            "the scorer must return its raw value"
        )
    weighted = {
        name: weights[name] * breakdown.raw[name] if name in weights else value
        for name, value in breakdown.weighted.items()
    }
    return replace(breakdown, total=sum(weighted.values()), weighted=weighted)
