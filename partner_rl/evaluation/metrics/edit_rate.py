"""Edit rate: how far the rewritten response is from what the supporter wrote (PARTNER, section 6)."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from partner_rl.evaluation.metrics.mean import mean
from partner_rl.evaluation.metrics.words import spaced_words


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
        words = spaced_words(original)
        if not words:
            raise ValueError(f"edit_rate: the original of row {row} has no word")
        rates.append(Levenshtein.distance(words, spaced_words(rewrite)) / len(words))
    return rates
