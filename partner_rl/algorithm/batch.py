"""The training batch: groups that share a prompt, as the numpy columns that RLlib carries to its learners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch

from partner_rl.algorithm.trajectory import SampledGroup, Step
from partner_rl.policy.actions import ActionTokens
from partner_rl.policy.logprobs import PromptGroup
from partner_rl.seeds import generator_of

EPISODES = "episodes_G"
"""Column that repeats the learner's number of episodes for each group."""

_PADDING = -1


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
    """The groups as padded numpy columns with the group as first axis, as RLlib ships batches."""
    actions = [g.group.actions for g in groups]
    samples = max(len(a) for a in actions)
    tokens = max(max(len(a.tokens) for a in group) for group in actions)
    prompt = max(len(g.group.prompt) for g in groups)
    columns: dict[str, npt.NDArray[Any]] = {
        "prompt_GP": np.full((len(groups), prompt), _PADDING, dtype=np.int64),
        EPISODES: np.full(len(groups), episodes, dtype=np.int64),
        "num_sentences_G": np.array([g.group.num_sentences for g in groups], dtype=np.int64),
        "position_GK": np.full((len(groups), samples), _PADDING, dtype=np.int64),
        "tokens_GKT": np.full((len(groups), samples, tokens), _PADDING, dtype=np.int64),
        "advantages_GK": np.zeros((len(groups), samples), dtype=np.float32),
        "logprobs_GKT": np.full((len(groups), samples, tokens + 1), np.nan, dtype=np.float32),
    }
    for g, item in enumerate(groups):
        columns["prompt_GP"][g, : len(item.group.prompt)] = item.group.prompt
        for k, action in enumerate(item.group.actions):
            columns["position_GK"][g, k] = action.position
            columns["tokens_GKT"][g, k, : len(action.tokens)] = action.tokens
            columns["advantages_GK"][g, k] = item.advantages[k]
            columns["logprobs_GKT"][g, k, : len(item.logprobs[k])] = item.logprobs[k]
    if groups[0].group.kept is not None:
        columns["kept_GKTW"] = _kept_column(groups, samples, tokens)
    return MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=episodes)


def _kept_column(groups: Sequence[TrainingGroup], samples: int, tokens: int) -> npt.NDArray[Any]:
    kept = [g.group.kept or () for g in groups]
    width = max((len(words) for group in kept for action in group for words in action), default=1)
    column = np.full((len(groups), samples, tokens, width), _PADDING, dtype=np.int32)
    for g, group in enumerate(kept):
        for k, action in enumerate(group):
            for t, words in enumerate(action):
                column[g, k, t, : len(words)] = words
    return column


def from_rllib(columns: Mapping[str, Any]) -> list[TrainingGroup]:
    """The inverse of `to_rllib`, for tensors or arrays."""
    prompts, sentences, positions, tokens, advantages, logprobs = (
        _array(columns[name])
        for name in ("prompt_GP", "num_sentences_G", "position_GK", "tokens_GKT", "advantages_GK", "logprobs_GKT")
    )
    kept = _array(columns["kept_GKTW"]) if "kept_GKTW" in columns else None
    groups = []
    for g in range(len(prompts)):
        samples = [k for k in range(positions.shape[1]) if positions[g, k] != _PADDING]
        actions = tuple(ActionTokens(int(positions[g, k]), _unpad(tokens[g, k])) for k in samples)
        groups.append(
            TrainingGroup(
                PromptGroup(
                    _unpad(prompts[g]),
                    int(sentences[g]),
                    actions,
                    None
                    if kept is None
                    else tuple(_kept_words(kept[g, k], a) for k, a in zip(samples, actions, strict=True)),
                ),
                tuple(float(advantages[g, k]) for k in samples),
                tuple(
                    tuple(logprobs[g, k, : len(a.tokens) + 1].tolist()) for k, a in zip(samples, actions, strict=True)
                ),
            )
        )
    return groups


def _array(column: Any) -> npt.NDArray[Any]:
    return np.asarray(column.cpu() if hasattr(column, "cpu") else column)


def _kept_words(kept_TW: npt.NDArray[Any], action: ActionTokens) -> tuple[tuple[int, ...], ...]:
    return tuple(_unpad(kept_TW[t]) for t in range(len(action.tokens)))


def _unpad(ids: npt.NDArray[Any]) -> tuple[int, ...]:
    return tuple(ids[ids != _PADDING].tolist())


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
