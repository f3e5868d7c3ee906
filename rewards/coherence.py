"""The reward for sentence coherence (PARTNER, section 4.3).

`r_c` is the mean, over the generated sentences and the response's other sentences, of the probability that the two
belong to one response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np

from partner_rl.types import ScoreRequest
from rewards.batching import item_order
from rewards.coherence_model import CoherenceClassifier
from rewards.device import check_device
from rewards.scorer import ComponentScore, FloatArray, Item

NAME = "coherence"
NEUTRAL = 0.5
"""The coherence of a response with nothing to compare: the answer of a classifier that knows nothing.

With 1 the policy would be paid for replacing the only sentence or for leaving the response alone, with 0 it would be
punished for it; neither says anything about coherence.
"""


@dataclass(frozen=True, slots=True)
class CoherenceReward:
    """Asks for each generated sentence with each other sentence; item: (candidate, other sentence)."""

    name: str = NAME
    width: int = 1

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        """Every generated sentence with every other one; blank sentences take no part."""
        others = [other for other in request.other_sentences if other.strip()]
        return tuple((candidate, other) for candidate in request.candidates if candidate.strip() for other in others)

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        """The mean probability, or `NEUTRAL` when there was nothing to compare."""
        return ComponentScore(mean_probability(values))


def whole_response_items(sentences: Sequence[str]) -> tuple[Item, ...]:
    """The items of a whole response's coherence, for evaluation: all ordered pairs of its sentences."""
    return tuple(permutations([sentence for sentence in sentences if sentence.strip()], 2))


def mean_probability(values: FloatArray) -> float:
    """The mean of `[n_items, 1]` probabilities, or `NEUTRAL` of none."""
    return float(values.mean(dtype=np.float64)) if values.size else NEUTRAL


class CoherenceScorer:
    """Probability that the two sentences of an item belong to one response."""

    name = NAME

    def __init__(self, classifier: CoherenceClassifier) -> None:
        """Take a classifier."""
        self.classifier = classifier

    def score(self, items: Sequence[Item]) -> FloatArray:
        """Probabilities, shape `[n_items, 1]`."""
        probabilities = np.zeros((len(items), 1), dtype=np.float32)
        order = sorted(range(len(items)), key=lambda i: item_order(items[i]))
        if order:
            pairs = [(items[i][0], items[i][1]) for i in order]
            probabilities[order, 0] = self.classifier.probabilities(pairs).numpy()
        return probabilities


@dataclass(frozen=True, slots=True)
class CoherenceBuilder:
    """Loads the classifier.

    Attributes:
        folder: A trained classifier's folder, readable where the scorer runs.
        max_tokens: Each sentence is cut to its first this many tokens.
    """

    folder: Path
    max_tokens: int = 128
    device: str = "cpu"

    def build(self) -> CoherenceScorer:
        """Load the classifier."""
        check_device(self.device, NAME)
        return CoherenceScorer(CoherenceClassifier.load(self.folder, self.max_tokens, self.device))
