"""Sentences of responses, which other responses are about the same topic, and pairs of sentences to train and test on.

Positive: two sentences of one response. Easy negative: the second one is of another seeker's response, drawn at random.
Hard negative: it is of another response to the same seeker, or of a response to one of the most similar seeker posts.
Positive and negatives share their first sentence, so that no sentence gives its class away by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize

from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.text_tokens import token_limit
from partner_rl.types import Example
from rewards.encoder import encode_states, pad_id_of, tokenize

SplitSentences = Callable[[str], Sequence[str]]
Matrix = npt.NDArray[np.float32]

PAIRS_PER_RESPONSE: Final = 4
"""Trials drawn from one response, so that long responses do not dominate."""
DRAWS: Final = 50
"""Attempts to find a response of another seeker for an easy negative."""
TEXTS_AT_ONCE: Final = 512
"""Texts whose states are held before they are pooled."""
ROWS_PER_PRODUCT: Final = 1024
"""Seeker posts that are compared with all others at once, which bounds the memory of the similarities."""


@dataclass(frozen=True, slots=True)
class SplitResponse:
    """A response in sentences.

    Attributes:
        sentences: Its sentences without surrounding white space, each once.
    """

    seeker_id: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PairTrial:
    """A sentence, one that stands in the same response, and two that do not.

    Attributes:
        response: Index of the response, so that its trials can be resampled together.
        first: The sentence that the other three are compared with.
        own: Another sentence of its response.
        easy: A sentence of a response to another seeker.
        hard: A sentence of another response about the same topic.
    """

    response: int
    first: str
    own: str
    easy: str
    hard: str


def split_responses(examples: Sequence[Example], split_sentences: SplitSentences) -> list[SplitResponse]:
    """The responses of a corpus in sentences, in the same order."""
    return [
        SplitResponse(
            example.seeker_id,
            tuple(dict.fromkeys(s.strip() for s in split_sentences(example.response_post) if s.strip())),
        )
        for example in examples
    ]


def embed_texts(encoder_path: Path, texts: Sequence[str], max_tokens: int, device: str = "cpu") -> Matrix:
    """Unit vectors of texts by a pretrained sentence encoder, `[n, D]`: the mean state over a text's tokens.

    Raises:
        PartnerError: The encoder cannot be loaded.
    """
    tokenizer, encoder = load_tokenizer(encoder_path), load_encoder(encoder_path)
    encoder.to(device)  # type: ignore[arg-type]
    distinct = list(dict.fromkeys(texts))
    pooled = [torch.zeros(0, int(encoder.config.hidden_size))]
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        encoded = tokenize(tokenizer, distinct[start : start + TEXTS_AT_ONCE], token_limit(encoder, max_tokens))
        states = encode_states(encoder, encoded, pad_id_of(tokenizer), torch.device(device))
        pooled.append(torch.stack([state.mean(0) for state in states]).float().cpu())
    vectors_ND = normalize(torch.cat(pooled), dim=-1).numpy()
    row = {text: index for index, text in enumerate(distinct)}
    vectors: Matrix = vectors_ND[[row[text] for text in texts]]
    return vectors


def same_topic(responses: Sequence[SplitResponse], seeker_vectors_ND: Matrix, neighbours: int) -> list[tuple[int, ...]]:
    """Per response, the responses that hard negatives are taken from.

    Returns:
        Indices of other responses: those to the same seeker first, then those to the most similar seeker posts.
    """
    seekers = {seeker: number for number, seeker in enumerate(dict.fromkeys(r.seeker_id for r in responses))}
    seeker_N = np.array([seekers[response.seeker_id] for response in responses], dtype=np.int64)
    count = min(neighbours, len(responses) - 1)
    found: list[tuple[int, ...]] = []
    for start in range(0, len(responses), ROWS_PER_PRODUCT):
        similarity_BN = seeker_vectors_ND[start : start + ROWS_PER_PRODUCT] @ seeker_vectors_ND.T
        for offset, similarity_N in enumerate(similarity_BN):
            index = start + offset
            similarity_N[seeker_N == seeker_N[index]] += 2.0  # above every cosine
            similarity_N[index] = -np.inf
            order = np.argsort(-similarity_N, kind="stable")[:count]
            found.append(tuple(int(i) for i in order))
    return found


def draw_trials(
    responses: Sequence[SplitResponse], topics: Sequence[Sequence[int]], rng: np.random.Generator
) -> list[PairTrial]:
    """Trials of all responses with two sentences or more, at most `PAIRS_PER_RESPONSE` of each.

    A draw without a negative of each kind, as a sentence that stands in both responses is none, is left out.
    """
    trials = []
    for index, response in enumerate(responses):
        for first, own in _ordered_pairs(response.sentences, rng):
            easy = _easy_negative(response, responses, rng)
            hard = _hard_negative(response, [responses[i] for i in topics[index]], rng)
            if easy is not None and hard is not None:
                trials.append(PairTrial(index, first, own, easy, hard))
    return trials


def _ordered_pairs(sentences: Sequence[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Some ordered pairs of distinct sentences, without listing all of a long response."""
    if len(sentences) < 2:
        return []
    # Twice as many draws as wanted, as draws of a short response repeat.
    drawn = [tuple(rng.choice(len(sentences), 2, replace=False).tolist()) for _ in range(2 * PAIRS_PER_RESPONSE)]
    return [(sentences[i], sentences[j]) for i, j in list(dict.fromkeys(drawn))[:PAIRS_PER_RESPONSE]]


def _easy_negative(response: SplitResponse, responses: Sequence[SplitResponse], rng: np.random.Generator) -> str | None:
    for _ in range(DRAWS):
        other = responses[int(rng.integers(len(responses)))]
        if other.seeker_id != response.seeker_id:
            sentence = _foreign_sentence(response, other, rng)
            if sentence is not None:
                return sentence
    return None


def _hard_negative(
    response: SplitResponse, candidates: Sequence[SplitResponse], rng: np.random.Generator
) -> str | None:
    for i in rng.permutation(len(candidates)):
        sentence = _foreign_sentence(response, candidates[i], rng)
        if sentence is not None:
            return sentence
    return None


def _foreign_sentence(response: SplitResponse, other: SplitResponse, rng: np.random.Generator) -> str | None:
    """A sentence of another response that this one does not contain."""
    candidates = [sentence for sentence in other.sentences if sentence not in response.sentences]
    return candidates[int(rng.integers(len(candidates)))] if candidates else None


def training_batches(
    responses: Sequence[SplitResponse], topics: Sequence[Sequence[int]], size: int, rng: np.random.Generator
) -> list[list[int]]:
    """A pass over the responses with two sentences or more, in random batches of responses.

    Each comes with one of its topic, so that every batch holds hard negatives.

    Returns:
        Batches of distinct indices.
    """
    seeds = [int(i) for i in rng.permutation(len(responses)) if len(responses[i].sentences) > 1]
    per_batch = max(1, size // 2)
    batches = []
    for start in range(0, len(seeds), per_batch):
        batch = seeds[start : start + per_batch]
        near = [int(rng.choice(topics[seed])) for seed in batch if len(topics[seed])]
        batches.append(list(dict.fromkeys(batch + near)))
    return batches
