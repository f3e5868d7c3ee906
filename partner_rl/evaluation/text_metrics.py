"""What the texts of a system's rewrites tell of each pair, as pure functions.

Axis legend: `_N` rewritten responses, `_C` candidates of a listener, `_S` sentences, `_D` embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.bleu import BLEU

from partner_rl.evaluation.resampling import Floats
from partner_rl.text.self_disclosure import speaks_of_itself
from partner_rl.text.words import words_of
from rewards.listener import CANDIDATES, distinct_posts, hit, other_posts

Embed = Callable[[Sequence[str]], npt.NDArray[np.floating]]
"""Texts → one embedding each, shape `[N, D]`."""

REFERENCES: Final = 50
"""Other responses that self-BLEU compares each one with: the work grows with the pairs and not with their square."""


def edit_rates(originals_N: Sequence[str], rewrites_N: Sequence[str]) -> list[float]:
    """The word-level Levenshtein distance R → R̂ over the number of words of R, for each response.

    0 is an untouched response; the rate exceeds 1 when more words change than the original has. Words are what white
    space separates.

    Raises:
        ValueError: The lists differ in length, or an original has no word.
    """
    if len(originals_N) != len(rewrites_N):
        raise ValueError(f"edit_rate: {len(originals_N)} originals but {len(rewrites_N)} rewrites")
    rates = []
    for row, (original, rewrite) in enumerate(zip(originals_N, rewrites_N, strict=True)):
        words = original.split()
        if not words:
            raise ValueError(f"edit_rate: the original of row {row} has no word")
        rates.append(Levenshtein.distance(words, rewrite.split()) / len(words))
    return rates


def self_bleu(responses_N: Sequence[str], seed: int = 0) -> list[float]:
    """BLEU-4 of each response against others of the same system, in [0, 1]; high means that all sound alike.

    Words are compared without case and punctuation, as for distinct-n. BLEU is sacrebleu's, with effective order and
    its exponential smoothing, so that a response of fewer than four words has a score too.

    Args:
        responses_N: The system's responses, in the order of the pairs that all systems share.
        seed: Decides which other pairs are compared with; the same for all systems.

    Returns:
        One score a response; 0 for the only one and for a response without words.
    """
    texts = [" ".join(words_of(response)) for response in responses_N]
    order = np.random.default_rng(seed).permutation(len(texts))
    count = min(REFERENCES, len(texts) - 1)
    bleu = BLEU(tokenize="none", effective_order=True)
    scores = [0.0] * len(texts)
    for place, row in enumerate(order):
        # The next ones on a circle in random order: every response is a reference equally often.
        others = [texts[order[(place + step) % len(texts)]] for step in range(1, count + 1)]
        if others and texts[row]:
            # Rounding may leave a score of identical texts above 1.
            scores[row] = min(1.0, bleu.sentence_score(texts[row], others).score / 100)
    return scores


def discloses(written: Sequence[str]) -> bool:
    """Whether one of the sentences that were written into a response speaks of its writer, by rules."""
    return any(map(speaks_of_itself, written))


def similarities(seeker_posts_N: Sequence[str], responses_N: Sequence[str], embed: Embed) -> list[float]:
    """The cosine similarity of the sentence embeddings of S and R̂ for each pair, in [−1, 1] (PARTNER, section 6).

    Raises:
        ValueError: The lists differ in length, or the embeddings have the wrong shape or are zero.
    """
    if len(seeker_posts_N) != len(responses_N):
        raise ValueError(f"specificity: {len(seeker_posts_N)} seeker posts but {len(responses_N)} responses")
    seekers_ND = _unit_rows("specificity", seeker_posts_N, embed)
    responses_ND = _unit_rows("specificity", responses_N, embed)
    return [float(value) for value in np.sum(seekers_ND * responses_ND, axis=1)]


def listener_hits(seeker_posts_N: Sequence[str], sentences_N: Sequence[Sequence[str]], embed: Embed) -> Floats:
    """For each response the share of its written sentences that are nearest to their own post.

    Does a written sentence, heard alone, tell which post it answers? The other posts are chosen among `seeker_posts_N`
    by a hash of both (`rewards.listener.other_posts`): they are the same for every system that answers these posts.
    Nearness is the cosine of the embeddings; where n posts are equally near, the true one among them, it counts 1/n.

    Args:
        seeker_posts_N: The posts, repeats allowed.
        sentences_N: The sentences written into each response, possibly none.
        embed: Sentence embeddings.

    Returns:
        Shares, `[N]`; NaN where no sentence was written, and throughout where there are fewer than `CANDIDATES`
        different posts.

    Raises:
        ValueError: The lists differ in length, or an embedding is zero or not a number.
    """
    if len(seeker_posts_N) != len(sentences_N):
        raise ValueError(f"listener accuracy: {len(seeker_posts_N)} posts but {len(sentences_N)} responses")
    posts = distinct_posts(seeker_posts_N)
    shares_N = np.full(len(seeker_posts_N), np.nan)
    written = [row for row, sentences in enumerate(sentences_N) if sentences]
    if len(posts) < CANDIDATES or not written:
        return shares_N
    texts = list(dict.fromkeys([*seeker_posts_N, *posts.values(), *(s for row in written for s in sentences_N[row])]))
    unit_ND, place = _unit_rows("listener accuracy", texts, embed), {text: row for row, text in enumerate(texts)}
    for row in written:
        post = seeker_posts_N[row]
        candidates_CD = unit_ND[[place[text] for text in (post, *other_posts(post, posts, CANDIDATES - 1))]]
        sentences_SD = unit_ND[[place[sentence] for sentence in sentences_N[row]]]
        shares_N[row] = np.mean([hit(candidates_CD @ sentence_D) for sentence_D in sentences_SD])
    return shares_N


def _unit_rows(metric: str, texts: Sequence[str], embed: Embed) -> Floats:
    """The embeddings of texts, scaled to length 1; errors name the metric."""
    rows_ND = embed(texts)
    if rows_ND.ndim != 2 or len(rows_ND) != len(texts):
        raise ValueError(f"{metric}: {len(texts)} texts gave embeddings of shape {rows_ND.shape}")
    norms_N1 = np.linalg.norm(rows_ND.astype(np.float64), axis=1, keepdims=True)
    if not np.all(norms_N1 > 0):
        raise ValueError(f"{metric}: the embedding of text {int(np.argmin(norms_N1))} is zero or not a number")
    unit_ND: Floats = rows_ND.astype(np.float64) / norms_N1
    return unit_ND
