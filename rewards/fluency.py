"""The reward for fluency: the inverse perplexity of the rewritten response (PARTNER, section 4.3), repeats aside.

The paper's `r_f = p_LM(R̂)^(1/N)` is between 0 and 1; N counts every token of the response: the first is conditioned on
a start token (see `rewards.language_model.start_token`), which itself is not counted.

A language model expects what it has just read, so a copy of a sentence is all but certain to it: repeating one sentence
raises the paper's reward several times over. Ours (our choice, `rewards.fluency.repetition_penalty`) is

    r_f = min(p_LM(R̂)^(1/N), p_LM(new tokens)^(1/N_new)) · (1 − r)^λ

where a token is repeated when it is part of `REPEAT_TOKENS` tokens that stood in this order earlier in the response,
and new otherwise, and r is the share of repeated ones. So a repeat earns nothing, and costs its share. Without a repeat
this is the paper's reward.

Every token of a response counts. One that is longer than the model is to read at once is read in pieces, each after the
tokens before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.types import ScoreRequest
from rewards.device import check_device
from rewards.language_model import LanguageModel, Tokens
from rewards.scorer import ComponentScore, FloatArray, Item

NAME = "fluency"


REPEAT_TOKENS = 4
"""Tokens in a row that make a repeat. Of the EPITOME responses one in twenty has one; with 3 it is one in seven, as
"that's so" and the like recur in plain English."""


@dataclass(frozen=True, slots=True)
class FluencyReward:
    """Asks for the perplexity and the repeats of the rewritten response; item: (response,).

    Attributes:
        repetition_penalty: `λ`; 0 makes repeats worthless but free, None takes the paper's reward, which pays for them.
    """

    repetition_penalty: float | None = 1.0
    name: str = NAME
    width: int = 3

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        """The rewritten response."""
        return ((request.rewritten_response,),)

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        """The reward; details: the paper's inverse perplexity, and the share of tokens that are repeated."""
        plain, new, repeated = (float(x) for x in values[0])
        details = {"inverse_perplexity": plain, "repeated": repeated}
        if self.repetition_penalty is None:
            return ComponentScore(plain, details)
        return ComponentScore(min(plain, new) * (1.0 - repeated) ** self.repetition_penalty, details)


class FluencyScorer:
    """Inverse perplexity of (text,) items, of all tokens and of the new ones, and the share of repeated tokens.

    A text without tokens is no fluent sentence: both inverse perplexities are 0.
    """

    name = NAME

    def __init__(self, language_model: LanguageModel, max_tokens: int) -> None:
        """Take a language model, which reads at most `max_tokens` tokens of a text at once."""
        self.language_model = language_model
        self.max_tokens = min(max_tokens, language_model.max_positions - 1)

    def score(self, items: Sequence[Item]) -> FloatArray:
        """Inverse perplexity of all and of the new tokens, share of repeated tokens: shape `[n_items, 3]`."""
        targets = [self.language_model.encode(text.strip()) for (text,) in items]
        spans = [pieces(len(target), self.max_tokens) for target in targets]
        places = [(target, piece) for target, cut in zip(targets, spans, strict=True) for piece in cut]
        found = iter(
            self.language_model.logprobs(
                [(self.language_model.start, *target[piece.context : piece.start]) for target, piece in places],
                [target[piece.start : piece.end] for target, piece in places],
            )
        )
        read = [np.concatenate([np.zeros(0, np.float32), *islice(found, len(cut))]) for cut in spans]
        rows = [_row(logprobs_T, repeated_tokens(target)) for logprobs_T, target in zip(read, targets, strict=True)]
        return np.array(rows, dtype=np.float32).reshape(len(items), 3)


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `start…end-1` of a text, read after `context…start-1`."""

    context: int
    start: int
    end: int


def pieces(length: int, limit: int) -> list[Piece]:
    """Cut a text of so many tokens into pieces that with their contexts have at most `limit` tokens.

    The first piece has `limit` tokens. Each later one is read after the tokens that precede it, half of `limit`.
    """
    step = max(1, limit // 2)
    starts = [0, *range(limit, length, step)] if length else []
    ends = [*starts[1:], length]
    return [Piece(max(0, start - (limit - step)), start, end) for start, end in zip(starts, ends, strict=False)]


def _row(logprobs_T: FloatArray, repeated_T: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    if not logprobs_T.size:
        return 0.0, 0.0, 0.0
    plain = np.exp(logprobs_T.mean(dtype=np.float64))
    # There is always a new token: the first.
    new = np.exp(logprobs_T[~repeated_T].mean(dtype=np.float64))
    return float(plain), float(new), float(repeated_T.mean())


def repeated_tokens(tokens: Tokens) -> npt.NDArray[np.bool_]:
    """Per token, whether it is part of `REPEAT_TOKENS` tokens that stood in this order earlier, `[T]`."""
    repeated_T = np.zeros(len(tokens), dtype=np.bool_)
    seen: set[Tokens] = set()
    for start in range(len(tokens) - REPEAT_TOKENS + 1):
        passage = tokens[start : start + REPEAT_TOKENS]
        if passage in seen:
            repeated_T[start : start + REPEAT_TOKENS] = True
        seen.add(passage)
    return repeated_T


@dataclass(frozen=True, slots=True)
class FluencyBuilder:
    """Loads the language model.

    Attributes:
        model: Its name (see `partner_rl.models.sources`), resolved where the scorer runs.
        cache_dir: Cache of converted models; None for the default.
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
