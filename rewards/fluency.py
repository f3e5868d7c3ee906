"""The reward for fluency: the inverse perplexity of the rewritten response (PARTNER, section 4.3).

`r_f = p_LM(R̂)^(1/N)`, between 0 and 1, where N counts every token of the response: the first is conditioned on a start
token (see `rewards.language_model.start_token`), which itself is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.types import ScoreRequest
from rewards.device import check_device
from rewards.language_model import LanguageModel
from rewards.scorer import ComponentScore, FloatArray, Item

NAME = "fluency"


@dataclass(frozen=True, slots=True)
class FluencyReward:
    """Asks for the inverse perplexity of the rewritten response; item: (response,)."""

    name: str = NAME
    width: int = 1

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        """The rewritten response."""
        return ((request.rewritten_response,),)

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        """The inverse perplexity itself."""
        return ComponentScore(float(values[0, 0]))


class FluencyScorer:
    """Inverse perplexity of (text,) items; 0 for a text without tokens, which is no fluent sentence."""

    name = NAME

    def __init__(self, language_model: LanguageModel, max_tokens: int) -> None:
        """Take a language model; each text is cut to its first `max_tokens` tokens."""
        self.language_model = language_model
        self.max_tokens = min(max_tokens, language_model.max_positions - 1)

    def score(self, items: Sequence[Item]) -> FloatArray:
        """Inverse perplexities, shape `[n_items, 1]`."""
        targets = [self.language_model.encode(text.strip(), self.max_tokens) for (text,) in items]
        found = self.language_model.log_probs([(self.language_model.start,)] * len(items), targets)
        values = [np.exp(x.mean(dtype=np.float64)) if x.size else 0.0 for x in found]
        return np.array(values, dtype=np.float32).reshape(len(items), 1)


@dataclass(frozen=True, slots=True)
class FluencyBuilder:
    """Loads the language model.

    Attributes:
        model: Its name (see `partner_rl.models.sources`), resolved where the scorer runs.
        cache_dir: Cache of converted models; None for the default.
        max_tokens: Each text is cut to its first this many tokens.
        device: `cpu` or `cuda`.
    """

    model: str
    cache_dir: Path | None = None
    max_tokens: int = 128
    device: str = "cpu"

    def build(self) -> FluencyScorer:
        """Load the language model."""
        check_device(self.device, NAME)
        return FluencyScorer(load_language_model(self.model, self.cache_dir, self.device), self.max_tokens)


def load_language_model(name: str, cache_dir: Path | None, device: str) -> LanguageModel:
    """A pretrained language model by name, on a device.

    Raises:
        PartnerError: It cannot be found or loaded.
    """
    folder = resolve(name, cache_dir)
    model = load_causal_lm(folder)
    return LanguageModel(model.to(device), load_tokenizer(folder))  # type: ignore[arg-type]
