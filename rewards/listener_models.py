"""The two listeners: a sentence encoder's cosine, and what a backward language model learns about a post."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.config.schema import DataConfig
from partner_rl.data.readers import read_examples
from partner_rl.data.splits import split_examples
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.models.text_tokens import token_limit
from rewards.device import check_device
from rewards.encoder import encode_states, pad_id_of, tokenize
from rewards.fluency import load_language_model
from rewards.language_model import LanguageModel
from rewards.listener import CANDIDATES, NAME, POOL_POSTS, ListenerScorer, Posts, Relate, distinct_posts
from rewards.mutual_information import BACKWARD_PROMPT, dialogue_tokens
from rewards.scorer import FloatArray


class EncoderListener:
    """Cosine of the mean token states of post and sentence, −1…1."""

    def __init__(self, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        """Take an encoder on its device; each text is cut to its first `max_tokens` tokens, special tokens included."""
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._limit = token_limit(encoder, max_tokens)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """The cosine of each (post, sentence), `[n]`."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        place = {text: row for row, text in enumerate(texts)}
        unit_ND = self._embed(texts)
        posts, sentences = ([place[pair[side]] for pair in pairs] for side in (0, 1))
        cosines: FloatArray = (unit_ND[posts] * unit_ND[sentences]).sum(1)
        return cosines

    def _embed(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors, `[N, D]`."""
        encoded = tokenize(self._tokenizer, texts, self._limit)
        states = encode_states(self._encoder, encoded, pad_id_of(self._tokenizer), self._encoder.device)
        means_ND = torch.stack([state.float().mean(0) for state in states])
        return torch.nn.functional.normalize(means_ND, dim=1).cpu().numpy()


class BackwardListener:
    """log p←(post | sentence) − log p←(post), nats: what the sentence tells about the post.

    The post's own log-probability, after an empty sentence, is taken off: else the listener would guess the post that
    is the likeliest to be written at all, whatever it hears.
    """

    def __init__(self, language_model: LanguageModel, max_tokens: int) -> None:
        """Take a backward model; each text is cut to its first `max_tokens` tokens."""
        self._model = language_model
        self._max_tokens = max_tokens

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """The gain of each (post, sentence), `[n]`."""
        alone = list(dict.fromkeys(post for post, _ in pairs))
        known = dict(zip(alone, self._logprobs([""] * len(alone), alone), strict=True))
        heard = self._logprobs([sentence for _, sentence in pairs], [post for post, _ in pairs])
        return np.array([x - known[post] for x, (post, _) in zip(heard, pairs, strict=True)], dtype=np.float32)

    def _logprobs(self, sentences: Sequence[str], posts: Sequence[str]) -> list[float]:
        contexts, targets = dialogue_tokens(self._model, BACKWARD_PROMPT, sentences, posts, self._max_tokens)
        return [float(x.sum(dtype=np.float64)) for x in self._model.logprobs(contexts, targets)]


LoadListener = Callable[[str, Path | None, int, str], Relate]
"""From a model's name (see `partner_rl.models.sources`), its cache, the tokens a text is cut to, and the device."""


def load_encoder_listener(name: str, cache_dir: Path | None, max_tokens: int, device: str) -> EncoderListener:
    """A sentence encoder that listens."""
    folder = resolve(name, cache_dir)
    encoder = load_encoder(folder).to(device)  # type: ignore[arg-type]
    return EncoderListener(encoder, load_tokenizer(folder), max_tokens)


def load_backward_listener(name: str, cache_dir: Path | None, max_tokens: int, device: str) -> BackwardListener:
    """A backward language model that listens."""
    return BackwardListener(load_language_model(name, cache_dir, device), max_tokens)


@dataclass(frozen=True, slots=True)
class ListenerKind:
    """A kind of listener.

    Attributes:
        temperature: Divides its relation, in the relation's unit: the value, among a few, at which supporters' own
            sentences of EPITOME find their posts likeliest (docs/rewards.md).
    """

    load: LoadListener
    temperature: float


ENCODER: Final = ListenerKind(load_encoder_listener, 0.1)
BACKWARD: Final = ListenerKind(load_backward_listener, 8.0)


@dataclass(frozen=True, slots=True)
class ListenerBuilder:
    """Loads a listener and reads the posts that it chooses among.

    Attributes:
        model: The model's name, resolved where the scorer runs.
        data: The corpus and its split; read where the scorer runs.
        temperature: Divides the relation; None for the kind's own.
        cache_dir: Cache of converted models; None for the default.
        max_tokens: Each text is cut to its first this many tokens.
    """

    kind: ListenerKind
    model: str
    data: DataConfig
    candidates: int = CANDIDATES
    temperature: float | None = None
    cache_dir: Path | None = None
    max_tokens: int = 128
    device: str = "cpu"

    def build(self) -> ListenerScorer:
        """Load the model and the posts."""
        check_device(self.device, NAME)
        posts = training_posts(self.data)
        relate = self.kind.load(self.model, self.cache_dir, self.max_tokens, self.device)
        return ListenerScorer(relate, posts, self.candidates, self.temperature or self.kind.temperature)


def training_posts(data: DataConfig) -> Posts:
    """The posts that a scorer draws from: `POOL_POSTS` different ones of the training split, whatever trains.

    Raises:
        PartnerError: The corpus cannot be read.
    """
    examples = read_examples(data.source, data.max_post_characters).examples
    return distinct_posts((example.seeker_post for example in split_examples(examples, data).train), POOL_POSTS)
