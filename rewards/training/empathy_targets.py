"""Labels of pairs as training targets: levels, tokens inside rationales, weights of the levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from partner_rl.types import NUM_LEVELS, Example, MechanismLabel
from rewards.encoder import EncodedText

IGNORED: Final = -100
"""Target of tokens that the rationale loss leaves out: special tokens and padding."""


@dataclass(frozen=True, slots=True)
class EmpathyTargets:
    """Labels of some pairs.

    Attributes:
        rationales: Per pair, which tokens lie in rationales, `[T, M]`: 1, 0 or `IGNORED`.
        lost: Rationales that are not a passage of their response and were left out.
    """

    levels_NM: Tensor
    rationales: tuple[Tensor, ...]
    lost: int


def empathy_targets(pairs: Sequence[Example], responses: Sequence[EncodedText]) -> EmpathyTargets:
    """Targets of labelled pairs and their tokenised responses."""
    rationales = []
    lost = 0
    for pair, response in zip(pairs, responses, strict=True):
        columns = []
        for label in pair.labels or ():
            inside, missing = rationale_tokens(label, pair.response_post, response)
            columns.append(torch.tensor(inside))
            lost += missing
        rationales.append(torch.stack(columns, dim=1))
    return EmpathyTargets(torch.from_numpy(level_matrix(pairs)), tuple(rationales), lost)


def level_matrix(examples: Sequence[Example]) -> npt.NDArray[np.int64]:
    """Level of each mechanism of labelled pairs, `[N, M]`."""
    return np.array([[label.level for label in example.labels or ()] for example in examples], dtype=np.int64)


def class_weights(levels_NM: Tensor) -> Tensor:
    """Weight of each level in its mechanism's loss, `[M, L]`.

    The inverse square root of its share, scaled to a mean of 1 over the pairs. Without it the rare levels are hardly
    ever decided for; with the plain inverse share, far too often.
    """
    weights = []
    for level_N in levels_NM.T:
        counts_L = torch.bincount(level_N, minlength=NUM_LEVELS).float()
        inverse_L = torch.where(counts_L > 0, counts_L.clamp(min=1.0).rsqrt(), torch.zeros(()))
        weights.append(inverse_L * counts_L.sum() / (inverse_L * counts_L).sum())
    return torch.stack(weights)


def level_offsets(weights_ML: Tensor) -> Tensor:
    """What these weights add to the logits, `[M, L]`: a loss that weighs a level w times shows it w times as often.

    A level that never occurs has no weight and no offset.
    """
    return torch.where(weights_ML > 0, weights_ML.clamp(min=1e-12).log(), torch.zeros(()))


def rationale_tokens(label: MechanismLabel, text: str, response: EncodedText) -> tuple[list[int], int]:
    """Which tokens of a response belong to a mechanism's rationale.

    Returns:
        Per token 1 inside, 0 outside, `IGNORED` for special tokens; and how many rationales the text does not contain.
    """
    inside = [IGNORED if special else 0 for special in response.special]
    spans, lost = rationale_passages(label, text)
    for begin, finish in spans:
        for token, (start, end) in enumerate(response.offsets):
            if inside[token] != IGNORED and start < finish and end > begin:
                inside[token] = 1
    return inside, lost


def rationale_passages(label: MechanismLabel, text: str) -> tuple[list[tuple[int, int]], int]:
    """First and one-past-last character of each rationale in the response, and how many are not to be found."""
    spans, lost = [], 0
    for rationale in label.rationales:
        passage = rationale.strip()
        begin = text.find(passage) if passage else -1
        if begin < 0:
            lost += 1
        else:
            spans.append((begin, begin + len(passage)))
    return spans, lost
