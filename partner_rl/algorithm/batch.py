"""The training batch: actions grouped by their prompt, as RLlib carries them to its learners."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from partner_rl.algorithm.trajectory import SampledGroup, Step
from partner_rl.policy.logprobs import PromptGroup
from partner_rl.seeds import generator_of

GROUPS = "groups_G"
"""Column of the `TrainingGroup`s."""
EPISODES = "episodes_G"
"""Column that repeats the learner's number of episodes for each group."""


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """Actions taken on one prompt, with what the update needs to know of them.

    Attributes:
        advantages: One for each action.
        logprobs: Sampling-time log-probabilities of each action's position and tokens.
    """

    group: PromptGroup
    advantages: tuple[float, ...]
    logprobs: tuple[tuple[float, ...], ...]


def training_groups(sampled: Sequence[SampledGroup], advantages_GK: npt.NDArray[np.float64]) -> list[TrainingGroup]:
    """Collects all steps by prompt: a group's first steps share theirs, later ones rarely do.

    All steps of a trajectory take its advantage.
    """
    by_prompt: dict[tuple[int, tuple[int, ...]], list[tuple[Step, float]]] = {}
    for g, group in enumerate(sampled):
        for trajectory, advantage in zip(group.trajectories, advantages_GK[g].tolist(), strict=True):
            for step in trajectory.steps:
                by_prompt.setdefault((g, step.prompt), []).append((step, advantage))
    return [
        TrainingGroup(
            PromptGroup(
                prompt, items[0][0].num_sentences, tuple(step.action for step, _ in items), _kept(s for s, _ in items)
            ),
            tuple(advantage for _, advantage in items),
            tuple(step.logprobs for step, _ in items),
        )
        for (_, prompt), items in by_prompt.items()
    ]


def _kept(steps: Iterable[Step]) -> tuple[tuple[tuple[int, ...], ...], ...] | None:
    kept = [step.kept for step in steps]
    return None if kept[0] is None else tuple(words for words in kept if words is not None)


def minibatches(groups: int, size: int, epochs: int, seed: int, iteration: int) -> list[list[int]]:
    """Which groups each optimizer step of an iteration takes: every epoch takes each group once.

    Args:
        groups: Number of groups.
        size: Groups in a step, a divisor of `groups`; as many as there are keeps them in order.
        epochs: Passes over the groups.
        seed: The run's seed.
        iteration: The iteration; each of its epochs has an order of its own.
    """
    steps = []
    for epoch in range(epochs):
        shuffled = generator_of("minibatches", seed, iteration, epoch).permutation(groups).tolist()
        order = list(range(groups)) if size == groups else shuffled
        steps += [order[start : start + size] for start in range(0, groups, size)]
    return steps


def to_rllib(groups: Sequence[TrainingGroup], episodes: int) -> MultiAgentBatch:
    """The groups as RLlib ships batches: a column of objects, which it hands on as they are."""
    column = np.empty(len(groups), dtype=object)
    column[:] = groups
    columns = {GROUPS: column, EPISODES: np.full(len(groups), episodes, dtype=np.int64)}
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=episodes)


def micro_batches(groups: Sequence[TrainingGroup], max_tokens: int) -> list[list[TrainingGroup]]:
    """Splits groups, sorted by length, so that each part's padded tokens stay within a budget.

    A group that is larger than the budget goes alone.
    """

    def size(item: TrainingGroup) -> tuple[int, int]:
        return len(item.group.prompt), sum(max(1, len(a.tokens)) for a in item.group.actions)

    parts: list[list[TrainingGroup]] = []
    width = (0, 0)
    for item in sorted(groups, key=lambda g: sum(size(g)), reverse=True):
        prompt, actions = size(item)
        wider = (max(width[0], prompt), max(width[1], actions))
        if parts and (len(parts[-1]) + 1) * sum(wider) <= max_tokens:
            parts[-1].append(item)
            width = wider
        else:
            parts.append([item])
            width = (prompt, actions)
    return parts
