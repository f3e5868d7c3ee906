"""The metrics of a system's rewrites: pure functions of texts and scores.

Axis legend: `_N` rewritten responses, `_D` embedding dimensions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.bleu import BLEU

from partner_rl.text.self_disclosure import speaks_of_itself
from partner_rl.text.words import words_of


def sentence_key(sentence: str) -> str:
    """What makes two sentences the same: their words without case and punctuation, or the text when it has no words."""
    return " ".join(words_of(sentence)) or sentence.strip()


def distinct_sentences(sentences: Sequence[str]) -> float | None:
    """The number of different sentences over the number of sentences that were inserted or replaced in.

    Returns:
        A share in (0, 1], or None when no sentence was written: a system without edits is neither varied nor not.
    """
    if not sentences:
        return None
    return len({sentence_key(sentence) for sentence in sentences}) / len(sentences)


def change_in_empathy(changes_N: Sequence[float]) -> float:
    """The mean over responses of empathy(S, R̂) − empathy(S, R), in points of the 0…6 scale.

    Args:
        changes_N: Each response's change, of the total or of one mechanism (then on its 0…2 scale).

    Raises:
        ValueError: There is no response, or a change is not finite.
    """
    return mean(changes_N, "change in empathy")


def coherence(coherences_N: Sequence[float]) -> float:
    """The mean over responses of the probability that their sentences belong to one response.

    Args:
        coherences_N: Each response's mean probability over the ordered pairs of its sentences, in [0, 1]. All systems
            are measured on whole responses, so that a system that writes nothing (`original`) compares with the others.

    Raises:
        ValueError: There is no response, or a value is outside [0, 1].
    """
    for row, value in enumerate(coherences_N):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"coherence: row {row} is {value}, outside [0, 1]")
    return mean(coherences_N, "coherence")


def commonest_sentence(sentences: Sequence[str]) -> float | None:
    """The share of the written sentences that are the most frequent one, case and punctuation aside.

    It shows a collapse into one template that a share of distinct sentences still hides.

    Returns:
        A share in (0, 1], or None when no sentence was written.
    """
    if not sentences:
        return None
    counts = Counter(sentence_key(sentence) for sentence in sentences)
    return counts.most_common(1)[0][1] / len(sentences)


def distinct_n(responses: Sequence[str], n: int) -> float:
    """The number of different n-grams over the number of n-grams, in all responses taken together.

    Words are compared without case and punctuation; an n-gram never spans two responses. The figure falls as a corpus
    grows, so compare only systems that answered the same pairs. Responses without any n-gram give 0.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"distinct_n: n is {n}, must be at least 1")
    ngrams = [words[i : i + n] for words in map(words_of, responses) for i in range(len(words) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def edit_rate(originals_N: Sequence[str], rewrites_N: Sequence[str]) -> float:
    """The mean over responses of the word-level Levenshtein distance R → R̂ over the number of words of R.

    0 is an untouched response; the rate exceeds 1 when more words change than the original has.

    Raises:
        ValueError: There is no response, the lists differ in length, or an original has no word.
    """
    return mean(edit_rates(originals_N, rewrites_N), "edit_rate")


def edit_rates(originals_N: Sequence[str], rewrites_N: Sequence[str]) -> list[float]:
    """The edit rate of each response.

    Raises:
        ValueError: As for `edit_rate`.
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


def mean_length(responses_N: Sequence[str]) -> float:
    """The mean number of words (separated by white space) of a response.

    Raises:
        ValueError: There is no response.
    """
    return mean([float(len(response.split())) for response in responses_N], "length")


def mean(values_N: Sequence[float], name: str) -> float:
    """The arithmetic mean, summed without rounding error so that the order of the responses does not matter.

    Raises:
        ValueError: There is no value, or one is NaN or infinite; the message names the metric and the row.
    """
    if not values_N:
        raise ValueError(f"{name}: there is no response to average over")
    for row, value in enumerate(values_N):
        if not math.isfinite(value):
            raise ValueError(f"{name}: row {row} is {value}, not a finite number")
    return math.fsum(values_N) / len(values_N)


def perplexity(fluencies_N: Sequence[float]) -> float:
    """The perplexity of the responses as one corpus: exp of the mean over responses of −log r_f.

    The fluency reward is `r_f = p_LM(R̂)^(1/N)`, so −log r_f is a response's mean negative log-likelihood a token, in
    nats. Averaging these and not the perplexities 1/r_f keeps a single odd response from deciding the figure. Every
    response counts the same, however long it is.

    Args:
        fluencies_N: Raw fluency of each response, in (0, 1].

    Raises:
        ValueError: There is no response, or a fluency is outside (0, 1].
    """
    for row, fluency in enumerate(fluencies_N):
        if not 0.0 < fluency <= 1.0:
            raise ValueError(f"perplexity: the fluency of row {row} is {fluency}, outside (0, 1]")
    return math.exp(mean([-math.log(fluency) for fluency in fluencies_N], "perplexity"))


REFERENCES: Final = 50
"""Other responses that each one is compared with: the work grows with the pairs and not with their square."""


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


def share_disclosing(written: Sequence[Sequence[str]]) -> float:
    """The share of responses with such a sentence.

    Args:
        written: The sentences that were written into each response, at least one response.
    """
    return sum(map(discloses, written)) / len(written)


def share_unchanged(originals_N: Sequence[str], rewrites_N: Sequence[str]) -> float:
    """The share of responses that came back character for character, in [0, 1].

    Raises:
        ValueError: There is no response, or the lists differ in length.
    """
    if len(originals_N) != len(rewrites_N):
        raise ValueError(f"share_unchanged: {len(originals_N)} originals but {len(rewrites_N)} rewrites")
    same = [float(original == rewrite) for original, rewrite in zip(originals_N, rewrites_N, strict=True)]
    return mean(same, "share_unchanged")


Embed = Callable[[Sequence[str]], npt.NDArray[np.floating]]
"""Texts → one embedding each, shape `[N, D]`."""


def specificity(seeker_posts_N: Sequence[str], responses_N: Sequence[str], embed: Embed) -> float:
    """The mean cosine similarity of the sentence embeddings of S and R̂, in [−1, 1] (PARTNER, section 6).

    Raises:
        ValueError: There is no pair, the lists differ in length, or the embeddings have the wrong shape or are zero.
    """
    return mean(similarities(seeker_posts_N, responses_N, embed), "specificity")


def similarities(seeker_posts_N: Sequence[str], responses_N: Sequence[str], embed: Embed) -> list[float]:
    """The cosine similarity of each pair.

    Raises:
        ValueError: As for `specificity`.
    """
    if len(seeker_posts_N) != len(responses_N):
        raise ValueError(f"specificity: {len(seeker_posts_N)} seeker posts but {len(responses_N)} responses")
    seekers_ND = _unit_rows(embed(seeker_posts_N), len(seeker_posts_N))
    responses_ND = _unit_rows(embed(responses_N), len(responses_N))
    return [float(value) for value in np.sum(seekers_ND * responses_ND, axis=1)]


def _unit_rows(rows_ND: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.float64]:
    if rows_ND.ndim != 2 or len(rows_ND) != count:
        raise ValueError(f"specificity: {count} texts gave embeddings of shape {rows_ND.shape}")
    norms_N1 = np.linalg.norm(rows_ND.astype(np.float64), axis=1, keepdims=True)
    if not np.all(norms_N1 > 0):
        raise ValueError(f"specificity: the embedding of row {int(np.argmin(norms_N1))} is zero or not a number")
    unit_ND: npt.NDArray[np.float64] = rows_ND.astype(np.float64) / norms_N1
    return unit_ND
