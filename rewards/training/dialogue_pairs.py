"""Pairs of posts as rows of tokens for one direction of the dialogue models, in batches, and with wrong partners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from partner_rl.types import Example
from rewards.batching import length_batches
from rewards.language_model import LanguageModel, Tokens
from rewards.mutual_information import BACKWARD_PROMPT, FORWARD_PROMPT, dialogue_tokens

Direction = Literal["forward", "backward"]
"""`forward` is p→(R|S), `backward` is p←(S|R)."""

POOL_BATCHES: Final = 16
"""Batches whose rows are sorted by length together: little padding, and still another mix each epoch."""


@dataclass(frozen=True, slots=True)
class TargetRow:
    """What a dialogue model reads, and the tokens that it is to predict after that, at least one."""

    context: Tokens
    target: Tokens

    @property
    def length(self) -> int:
        """Tokens that go through the model: the last one predicts nothing."""
        return len(self.context) + len(self.target) - 1


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """Rows as tensors: the arguments of `TargetLoss.forward`."""

    ids_BT: Tensor
    mask_BT: Tensor
    rows_N: Tensor
    columns_N: Tensor
    targets_N: Tensor

    def to(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The arguments on a device."""
        tensors = (self.ids_BT, self.mask_BT, self.rows_N, self.columns_N, self.targets_N)
        a, b, c, d, e = (tensor.to(device) for tensor in tensors)
        return a, b, c, d, e


def visible_pairs(examples: Sequence[Example]) -> list[Example]:
    """The pairs of which both posts have visible text: an empty one is neither a condition nor a target."""
    return [example for example in examples if example.seeker_post.strip() and example.response_post.strip()]


def conditions_and_targets(examples: Sequence[Example], direction: Direction) -> tuple[list[str], list[str]]:
    """Per pair, the text that is conditioned on and the text that is predicted."""
    seekers, responses = [e.seeker_post for e in examples], [e.response_post for e in examples]
    return (seekers, responses) if direction == "forward" else (responses, seekers)


def encode_rows(
    language_model: LanguageModel,
    direction: Direction,
    conditions: Sequence[str],
    targets: Sequence[str],
    max_tokens: int,
) -> list[TargetRow]:
    """Rows of tokens exactly as the scorer asks for them; every target has visible text."""
    prompt = FORWARD_PROMPT if direction == "forward" else BACKWARD_PROMPT
    contexts, target_tokens = dialogue_tokens(language_model, prompt, conditions, targets, max_tokens)
    return [TargetRow(context, target) for context, target in zip(contexts, target_tokens, strict=True)]


def token_batches(rows: Sequence[TargetRow], budget: int, rng: np.random.Generator) -> list[list[int]]:
    """A pass over all rows in random batches of similar length, each of at most `budget` padded tokens."""
    mean = max(1, sum(row.length for row in rows) // max(1, len(rows)))
    pool_size = max(1, POOL_BATCHES * budget // mean)
    order = rng.permutation(len(rows)).tolist()
    batches = []
    for start in range(0, len(order), pool_size):
        pool = order[start : start + pool_size]
        batches += [[pool[i] for i in batch] for batch in length_batches([rows[i].length for i in pool], budget)]
    return [batches[index] for index in rng.permutation(len(batches))]


def make_batch(rows: Sequence[TargetRow]) -> TargetBatch:
    """Rows padded on the right, and where the hidden states stand that predict their target tokens."""
    longest = max(row.length for row in rows)
    ids_BT = torch.zeros((len(rows), longest), dtype=torch.long)
    mask_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
    numbers: list[int] = []
    columns: list[int] = []
    for number, row in enumerate(rows):
        ids_BT[number, : row.length] = torch.tensor((row.context + row.target)[: row.length])
        mask_BT[number, : row.length] = True
        numbers += [number] * len(row.target)
        columns += range(len(row.context) - 1, row.length)
    targets_N = torch.tensor([token for row in rows for token in row.target])
    return TargetBatch(ids_BT, mask_BT, torch.tensor(numbers), torch.tensor(columns), targets_N)


def with_wrong_conditions(rows: Sequence[TargetRow], batch: Sequence[int], partners: Sequence[int]) -> list[TargetRow]:
    """The rows of a batch, then their targets after the conditions of their partners, in the same order."""
    return [*(rows[i] for i in batch), *(TargetRow(rows[partners[i]].context, rows[i].target) for i in batch)]


def wrong_partners(seekers: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Per pair, the index of a random pair of another seeker."""
    partners = []
    for seeker in seekers:
        while True:
            other = int(rng.integers(len(seekers)))
            if seekers[other] != seeker:
                break
        partners.append(other)
    return partners
