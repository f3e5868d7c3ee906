"""The reward for empathy: how much the rewriting changes the response's empathy (PARTNER, section 4.3).

`r_e = empathy(S, R̂) − empathy(S, R)`, each the sum of three mechanisms' levels and so within 0…6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from partner_rl.types import MECHANISMS, PartnerError, ScoreRequest
from rewards.batching import item_order
from rewards.device import check_device
from rewards.empathy_ensemble import EmpathyEnsemble, lower_bound
from rewards.empathy_model import EmpathyClassifier
from rewards.scorer import ComponentScore, FloatArray, Item
from rewards.window import window

NAME = "empathy"

Levels = Callable[[EmpathyEnsemble, Sequence[tuple[str, str]]], torch.Tensor]
"""Level of each mechanism, 0…2 and `[n_pairs, 3]`, of (seeker post, response) pairs."""


@dataclass(frozen=True, slots=True)
class EmpathyReward:
    """Asks for the levels of the rewritten and of the original response.

    Item: (seeker post, response), and the other response where they differ: what is too long for the classifier is read
    in the same window around the edit (`rewards.window`).
    """

    name: str = NAME
    width: int = len(MECHANISMS)

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        """The rewritten and the original response, each with the seeker's post and the other one."""
        seeker, original, rewritten = request.seeker_post, request.original_response, request.rewritten_response
        if original == rewritten:
            return (seeker, rewritten), (seeker, original)
        return (seeker, rewritten, original), (seeker, original, rewritten)

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        """Rewritten minus original, summed over the mechanisms; details: the change of each."""
        change_M = values[0].astype(np.float64) - values[1].astype(np.float64)
        return ComponentScore(
            float(change_M.sum()), {name: float(x) for name, x in zip(MECHANISMS, change_M, strict=True)}
        )


class EmpathyScorer:
    """Level of each mechanism, 0…2, of (seeker post, response) and (seeker post, response, other response) items.

    A response without any text expresses nothing: its levels are 0, whatever the classifier would say.
    """

    name = NAME

    def __init__(self, ensemble: EmpathyEnsemble, levels: Levels) -> None:
        """Take the classifiers, and what makes levels of what they say."""
        self.ensemble = ensemble
        self._levels = levels

    @property
    def classifier(self) -> EmpathyClassifier:
        """The classifier whose decisions, probabilities and rationales stand beside the levels."""
        return self.ensemble.members[0]

    def score(self, items: Sequence[Item]) -> FloatArray:
        """Levels, shape `[n_items, 3]`, in the order of `MECHANISMS`."""
        levels = np.zeros((len(items), len(MECHANISMS)), dtype=np.float32)
        pairs = [self._pair(item) for item in items]
        # Each pair once: the samples of a group share their original.
        distinct = sorted({pair for pair in pairs if pair[1].strip()}, key=item_order)
        if distinct:
            found = dict(zip(distinct, self._levels(self.ensemble, distinct).numpy(), strict=True))
            for row, pair in enumerate(pairs):
                levels[row] = found.get(pair, 0.0)
        return levels

    def _pair(self, item: Item) -> tuple[str, str]:
        """The seeker's post and what is read of the response."""
        seeker, response, *other = item
        return seeker, window(other[0], response, self.classifier.fits)[1] if other else response


def expected_levels(ensemble: EmpathyEnsemble, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
    """The mean level under the first member's calibrated probabilities."""
    return EmpathyEnsemble(ensemble.members[:1]).expected_levels(pairs)[0]


def decided_levels(ensemble: EmpathyEnsemble, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
    """The level that the first member decides for."""
    return ensemble.members[0].level_logits(pairs).argmax(-1).float()


def lower_levels(ensemble: EmpathyEnsemble, pairs: Sequence[tuple[str, str]], deviations: float) -> torch.Tensor:
    """The lower confidence bound of the members' expected levels, so many standard deviations below their mean."""
    return lower_bound(ensemble.expected_levels(pairs), deviations)


@dataclass(frozen=True, slots=True)
class EmpathyBuilder:
    """Loads the classifier.

    Attributes:
        folder: A trained classifier's folder, readable where the scorer runs.
        score: `expected` or `argmax` level of the first member, or the `conservative` one of all.
        max_tokens: Most tokens of a response that are read, and of the seeker's post its first; None for as many as in
            the classifier's training.
    """

    folder: Path
    score: Literal["expected", "argmax", "conservative"] = "expected"
    max_tokens: int | None = None
    device: str = "cpu"
    deviations: float = 1.0

    def check(self) -> None:
        """Check that `build` would load the classifier, without reading a weight.

        Raises:
            PartnerError: As `build`.
        """
        if self.score == "conservative":
            self._check_members(EmpathyEnsemble.check(self.folder))
        else:
            EmpathyClassifier.check(self.folder)

    def _check_members(self, count: int) -> None:
        if count < 2:
            raise PartnerError(
                f"{self.folder} holds one empathy classifier, and rewards.empathy.score=conservative needs two or "
                "more: train it with reward_training.empathy_members=3, or set score=expected"
            )

    def build(self) -> EmpathyScorer:
        """Load the classifier.

        Raises:
            PartnerError: The folder holds none, or a single one where a bound over several is asked for.
        """
        check_device(self.device, NAME)
        if self.score == "conservative":
            ensemble = EmpathyEnsemble.load(self.folder, self.max_tokens, self.device)
            self._check_members(len(ensemble.members))
            return EmpathyScorer(ensemble, partial(lower_levels, deviations=self.deviations))
        classifier = EmpathyClassifier.from_pretrained(self.folder, self.max_tokens, self.device)
        levels = expected_levels if self.score == "expected" else decided_levels
        return EmpathyScorer(EmpathyEnsemble((classifier,)), levels)
