"""The baseline `best_of_n`: of several rewrites of the warm start, the one that the rewards like best.

It spends at every rewrite what reinforcement learning spends once, and knows the rewards at test time. Judge it by
metrics that the rewards do not contain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites
from partner_rl.types import ScoreRequest


def best_of_n(context: BaselineContext) -> BaselineRewrites:
    """The best of `baselines.best_of` rewrites of each pair by total reward.

    Raises:
        ValueError: The context has no warm start.
        PartnerError: A reward fails.
    """
    if context.warm_start is None:
        raise ValueError("there is no warm start")
    samples = context.config.baselines.best_of
    with context.progress(f"Rewriting {samples} times with the warm start") as report:
        drawn = context.rewrite(context.warm_start, samples, report)
    # As many pairs at once as make a usual batch of requests: the scores of a pair come together.
    size = max(1, context.config.evaluation.batch_size // samples)
    weights = context.config.rewards.weights()
    totals: list[list[float]] = []
    with context.progress(f"Scoring {samples} rewrites of each pair") as report:
        for start in range(0, len(drawn), size):
            batch = drawn[start : start + size]
            scored = iter(context.client.score([request for requests in batch for request in requests]))
            totals += [[next(scored).weighed(weights).total for _ in requests] for requests in batch]
            report(len(totals), len(drawn))
    return BaselineRewrites(best(drawn, totals), f"the best of {samples} rewrites of the warm start, by total reward")


def best(samples: Sequence[Sequence[ScoreRequest]], totals: Sequence[Sequence[float]]) -> list[ScoreRequest]:
    """Of each pair's rewrites the one with the highest total; the first one where several have it."""
    return [requests[int(np.argmax(np.asarray(of_pair)))] for requests, of_pair in zip(samples, totals, strict=True)]
