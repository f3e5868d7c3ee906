"""The reward for mutual information between the seeker's post and the rewritten response (PARTNER, section 4.3).

`r_m = λ log p→(R̂|S) + (1−λ) log p←(S|R̂)`: specificity and diversity. Both log-probabilities are means over the target's
tokens, in nats, so that long responses are not punished for their length (our choice).

The models are conditioned through a short plain-text dialogue, not a chat template: its system prompt and markers
would cost more tokens than the posts. A model fine-tuned for one direction must be trained on the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partner_rl.types import ScoreRequest
from rewards.device import check_device
from rewards.fluency import load_language_model
from rewards.language_model import LanguageModel, Tokens
from rewards.scorer import ComponentScore, FloatArray, Item
from rewards.window import window

NAME = "mutual_information"


@dataclass(frozen=True, slots=True)
class DialoguePrompt:
    """The context `before + " " + post + after`, which `" " + target` follows."""

    before: str
    after: str

    def context(self, language_model: LanguageModel, post: str, max_tokens: int) -> Tokens:
        """Tokens of the context with the post cut to its first `max_tokens` tokens."""
        return (
            language_model.start,
            *language_model.encode(self.before),
            *language_model.encode(f" {post.strip()}", max_tokens),
            *language_model.encode(self.after),
        )


FORWARD_PROMPT = DialoguePrompt("User:", "\nReply:")
BACKWARD_PROMPT = DialoguePrompt("The reply:", "\nThe post:")


@dataclass(frozen=True, slots=True)
class MutualInformationReward:
    """Asks for the two mean log-probabilities.

    Item: (seeker post, rewritten response), and the original where they differ: a response that is too long for the
    models is read in the window around its edit (`rewards.window`).

    Attributes:
        lambda_mi: Share `λ` of the forward model, 0…1.
    """

    lambda_mi: float = 0.5
    name: str = NAME
    width: int = 2

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        """The seeker's post with the rewritten response and, where that differs, the original."""
        item = (request.seeker_post, request.rewritten_response)
        if request.original_response == request.rewritten_response:
            return (item,)
        return ((*item, request.original_response),)

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        """The weighted sum of both directions; details: each that has a share."""
        shares = {"forward": self.lambda_mi, "backward": 1.0 - self.lambda_mi}
        details = {name: float(x) for (name, share), x in zip(shares.items(), values[0], strict=True) if share > 0.0}
        return ComponentScore(sum(shares[name] * value for name, value in details.items()), details)


class MutualInformationScorer:
    """Mean log-probability a token of the response given the post and of the post given the response.

    An empty target has no tokens to average over. It counts as a uniform guess over the vocabulary, `−log V`, the
    value of a model that knows nothing; 0, the sum over no tokens, would be the best score there is.
    """

    name = NAME

    def __init__(self, forward: LanguageModel | None, backward: LanguageModel | None, max_tokens: int) -> None:
        """Take the two models, possibly one and the same, which read at most `max_tokens` tokens of each post.

        A direction without a model scores 0.
        """
        self.forward = forward
        self.backward = backward
        self.max_tokens = max_tokens

    def score(self, items: Sequence[Item]) -> FloatArray:
        """Forward and backward mean log-probabilities in nats, shape `[n_items, 2]`."""
        seekers = [item[0] for item in items]
        said = _responses(self.forward, FORWARD_PROMPT, items, self.max_tokens)
        heard = _responses(self.backward, BACKWARD_PROMPT, items, self.max_tokens)
        columns = (
            _mean_logprobs(self.forward, FORWARD_PROMPT, seekers, said, self.max_tokens),
            _mean_logprobs(self.backward, BACKWARD_PROMPT, heard, seekers, self.max_tokens),
        )
        return np.stack(columns, axis=1).astype(np.float32)


def _responses(
    language_model: LanguageModel | None, prompt: DialoguePrompt, items: Sequence[Item], max_tokens: int
) -> list[str]:
    """What a direction's model is to read of each item's response."""
    if language_model is None:
        return [item[1] for item in items]
    limit = post_limit(language_model, prompt, max_tokens)

    def fits(post: str) -> bool:
        return len(language_model.encode(f" {post.strip()}", limit + 1)) <= limit

    return [window(original[0], response, fits)[1] if original else response for _, response, *original in items]


def post_limit(language_model: LanguageModel, prompt: DialoguePrompt, max_tokens: int) -> int:
    """Most tokens that a model reads of each of the two posts: `max_tokens`, or as many as it has positions for."""
    overhead = len(prompt.context(language_model, "", 0))
    return min(max_tokens, (language_model.max_positions - overhead) // 2)


def dialogue_tokens(
    language_model: LanguageModel,
    prompt: DialoguePrompt,
    posts: Sequence[str],
    targets: Sequence[str],
    max_tokens: int,
) -> tuple[list[Tokens], list[Tokens]]:
    """What a model of one direction reads and what it is asked for: the same in training and in scoring.

    Args:
        language_model: The model, whose tokenizer and number of positions decide.
        prompt: The direction's prompt.
        posts: Per row, the text that is conditioned on.
        targets: Per row, the text to be predicted.
        max_tokens: Each text is cut to its first this many tokens, or fewer where the model has fewer positions.

    Returns:
        Contexts, and targets; a target without visible text has no tokens.
    """
    limit = post_limit(language_model, prompt, max_tokens)
    contexts = [prompt.context(language_model, post, limit) for post in posts]
    return contexts, [language_model.encode(f" {text.strip()}", limit) if text.strip() else () for text in targets]


def _mean_logprobs(
    language_model: LanguageModel | None,
    prompt: DialoguePrompt,
    posts: Sequence[str],
    targets: Sequence[str],
    max_tokens: int,
) -> FloatArray:
    """Mean log-probability a token of each target after its post, shape `[n]`; zeros without a model."""
    if language_model is None:
        return np.zeros(len(posts), dtype=np.float32)
    contexts, target_tokens = dialogue_tokens(language_model, prompt, posts, targets, max_tokens)
    uniform = -math.log(language_model.vocabulary_size)
    found = language_model.logprobs(contexts, target_tokens)
    return np.array([x.mean(dtype=np.float64) if x.size else uniform for x in found], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class MutualInformationBuilder:
    """Loads the two language models; one copy serves both directions when their names are equal.

    Attributes:
        forward: Name of the model of `p→(R̂|S)` (see `partner_rl.models.sources`), resolved where the scorer runs; None
            when `λ` is 0, so that nobody waits for a number that weighs nothing.
        backward: Name of the model of `p←(S|R̂)`; None when `λ` is 1.
        cache_dir: Cache of converted models; None for the default.
        max_tokens: Most tokens that are read of each post.
    """

    forward: str | None
    backward: str | None
    cache_dir: Path | None = None
    max_tokens: int = 128
    device: str = "cpu"

    def build(self) -> MutualInformationScorer:
        """Load the language models."""
        check_device(self.device, NAME)
        names = {name for name in (self.forward, self.backward) if name is not None}
        models = {name: load_language_model(name, self.cache_dir, self.device) for name in sorted(names)}
        forward, backward = (None if name is None else models[name] for name in (self.forward, self.backward))
        return MutualInformationScorer(forward, backward, self.max_tokens)
