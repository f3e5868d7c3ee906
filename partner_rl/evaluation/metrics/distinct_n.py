"""Distinct-n: how varied the rewritten responses are (Li et al., NAACL 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from partner_rl.evaluation.metrics.words import content_words


def distinct_n(responses: Sequence[str], n: int) -> float:
    """The number of different n-grams over the number of n-grams, in all responses taken together.

    Words are compared without case and punctuation; an n-gram never spans two responses. The figure falls as a corpus
    grows, so compare only systems that answered the same pairs. Responses without any n-gram give 0.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"distinct_n: n is {n}, must be at least 1")
    ngrams = [words[i : i + n] for words in map(content_words, responses) for i in range(len(words) - n + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
