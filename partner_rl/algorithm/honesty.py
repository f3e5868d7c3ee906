"""A reward for not telling of a life that a language model has not had.

The value is the share of the written sentences that do not speak of their writer (`partner_rl.text.self_disclosure`):
1 when none does, or none was written, 0 when all do. Like variety it needs no model, so that the driver computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from envs.rewriting import written_sentences
from partner_rl.algorithm.trajectory import SampledGroup, Trajectory
from partner_rl.text.self_disclosure import speaks_of_itself
from partner_rl.types import ScoreRequest

HONESTY: Final = "honesty"
"""Name of the component, as in `rewards.honesty`."""


def honesty(request: ScoreRequest) -> float:
    """Share of a rewrite's written sentences that do not speak of their writer; 1 when there is no sentence."""
    sentences = written_sentences(request)
    return 1.0 - sum(map(speaks_of_itself, sentences)) / len(sentences) if sentences else 1.0


def with_honesty(groups: Sequence[SampledGroup], weight: float) -> list[SampledGroup]:
    """The groups with the component in their rewards, greedy rollouts too.

    Args:
        groups: The sampled groups.
        weight: Weight of the component.
    """

    def rewarded(trajectory: Trajectory) -> Trajectory:
        return trajectory.with_component(HONESTY, honesty(trajectory.request), weight)

    return [
        replace(
            group,
            trajectories=tuple(map(rewarded, group.trajectories)),
            greedy=rewarded(group.greedy) if group.greedy else None,
        )
        for group in groups
    ]
