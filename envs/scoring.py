"""The callable that scores finished episodes, and the check of what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from partner_rl.types import PartnerError, RewardBreakdown, ScoreRequest

EpisodeScorer: TypeAlias = Callable[[Sequence[ScoreRequest]], Sequence[RewardBreakdown]]
"""Scores a batch of rewritten responses: one breakdown for each request, in their order; not weighed yet."""


def score_episodes(scorer: EpisodeScorer, requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
    """Call the scorer once for all requests and check its answer.

    Raises:
        PartnerError: The scorer returned another number of results than there are requests, or a score that is not a
            finite number; the message names the scorer, the component and the row.
    """
    breakdowns = list(scorer(requests))
    name = getattr(scorer, "__name__", type(scorer).__name__)
    if len(breakdowns) != len(requests):
        raise PartnerError(
            f"scorer {name} returned {len(breakdowns)} results for {len(requests)} requests: "
            "it must return one RewardBreakdown for each, in their order"
        )
    for row, breakdown in enumerate(breakdowns):
        for component, score in breakdown.raw.items():
            if not math.isfinite(score):
                raise PartnerError(
                    f"scorer {name} returned {component} {score} for row {row} of {len(requests)}: "
                    "a score must be a finite number"
                )
    return breakdowns
