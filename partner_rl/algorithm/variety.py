"""A reward for saying to this seeker what is not said to everybody.

Empathy alone is cheapest with one warm sentence for all posts. A rewrite's variety is its share in distinct-2
(Li et al., NAACL 2016): with `n(b)` the times that word pair `b` stands in the inserted sentences of this iteration
and of the last `window` rewrites, it is the mean of `1/n(b)` over the pairs of the inserted sentences. The mean of it
over all pairs is the number of different pairs over the number of all. Unlike the components in `rewards/`, it
belongs to no response by itself: it depends on what else is written, so that the driver computes it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Final

from partner_rl.algorithm.trajectory import SampledGroup, Trajectory
from partner_rl.algorithm.words import ngrams, stable_hash, words_of
from partner_rl.types import ScoreRequest

VARIETY: Final = "variety"
"""Name of the component, as in `rewards.variety`."""

Pairs = tuple[int, ...]
"""Hashes of the word pairs of a rewrite's inserted sentences."""


class Variety:
    """Rewards rare word pairs, and remembers those of the rewrites before.

    Args:
        weight: Weight of the component in the reward.
        window: Rewrites that are remembered.
    """

    def __init__(self, weight: float, window: int) -> None:
        self._weight = weight
        self._recent: deque[Pairs] = deque(maxlen=window)
        self._counts: Counter[int] = Counter()

    def rewarded(self, groups: Sequence[SampledGroup]) -> list[SampledGroup]:
        """The groups with the component in their rewards; their rewrites are remembered, greedy rollouts are not."""
        pairs = {id(t): _pairs(t.request) for group in groups for t in (*group.trajectories, *_greedy(group))}
        written = [pairs[id(t)] for group in groups for t in group.trajectories]
        counts = self._counts + Counter(pair for row in written for pair in row)

        def with_variety(trajectory: Trajectory, own: Counter[int]) -> Trajectory:
            value = variety(pairs[id(trajectory)], counts, own)
            breakdown = trajectory.breakdown
            return replace(
                trajectory,
                breakdown=replace(
                    breakdown,
                    total=breakdown.total + self._weight * value,
                    raw={**breakdown.raw, VARIETY: value},
                    weighted={**breakdown.weighted, VARIETY: self._weight * value},
                ),
            )

        rewarded = [
            replace(
                group,
                trajectories=tuple(with_variety(t, Counter()) for t in group.trajectories),
                # A greedy rollout is not among the rewrites that were counted.
                greedy=with_variety(group.greedy, Counter(pairs[id(group.greedy)])) if group.greedy else None,
            )
            for group in groups
        ]
        for row in written:
            self._remember(row)
        return rewarded

    def _remember(self, row: Pairs) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._counts.subtract(self._recent[0])
            self._counts += Counter()
        self._recent.append(row)
        self._counts.update(row)

    def state(self) -> list[list[int]]:
        """What must be saved for an exact resume, as JSON."""
        return [list(row) for row in self._recent]

    def restore(self, state: Sequence[Sequence[int]]) -> None:
        """Takes back what `state` returned."""
        self._recent.clear()
        self._counts.clear()
        for row in state:
            self._remember(tuple(row))


def variety(pairs: Pairs, counts: Mapping[int, int], own: Mapping[int, int]) -> float:
    """Mean over the pairs of one over how often each was written; 0 without a pair.

    Args:
        pairs: Hashes of a rewrite's word pairs.
        counts: Pair → how often it was written by all rewrites, 0 where missing.
        own: Pair → how often it is to be counted besides; empty for a rewrite that `counts` includes.
    """
    return fmean(1.0 / (counts.get(pair, 0) + own.get(pair, 0)) for pair in pairs) if pairs else 0.0


def _pairs(request: ScoreRequest) -> Pairs:
    return tuple(stable_hash(pair) for candidate in request.candidates for pair in ngrams(words_of(candidate), 2))


def _greedy(group: SampledGroup) -> tuple[Trajectory, ...]:
    return (group.greedy,) if group.greedy else ()
