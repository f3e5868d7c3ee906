"""Metrics of a whole corpus of rewrites that no mean over pairs gives: distinct-n and repeated sentences.

Each function reads the texts once and returns a `Statistic`, which counts any selection of their rows again: that is
what intervals and tests need, some hundred times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from partner_rl.evaluation.resampling import Bools, Floats, Statistic
from partner_rl.text.words import ngrams, words_of

Ints = npt.NDArray[np.int64]


def sentence_key(sentence: str) -> str:
    """What makes two sentences the same: their words without case and punctuation, or the text when it has no words."""
    return " ".join(words_of(sentence)) or sentence.strip()


def ngrams_a_response(responses_N: Sequence[str], n: int) -> float:
    """Mean number of n-grams of a response; 0 without responses."""
    return sum(len(ngrams(words_of(response), n)) for response in responses_N) / max(1, len(responses_N))


def distinct_ngrams(responses_N: Sequence[str], n: int, a_response: float | None = None) -> Statistic:
    """Distinct-n: the number of different n-grams over the number of n-grams, in all selected responses together.

    Words are compared without case and punctuation; an n-gram never spans two responses. The metric falls as a corpus
    grows, so compare only systems that answered the same pairs.

    Args:
        responses_N: The responses.
        n: Words of an n-gram.
        a_response: Length control: only the first n-grams are counted, this many for each selected response on
            average. Systems with the same number are compared on the same number of n-grams. None counts all.

    Returns:
        The statistic; 0 where there is no n-gram.
    """

    def value(ids: Ints, rows: int) -> float:
        counted = ids if a_response is None else ids[: max(1, round(a_response * rows))]
        return _kinds(counted) / len(counted) if len(counted) else 0.0

    return _statistic((ngrams(words_of(response), n) for response in responses_N), value)


def distinct_written(candidates_N: Sequence[Sequence[str]]) -> Statistic:
    """Share of the written sentences that are different; NaN where none was written."""
    return _statistic(_keys(candidates_N), lambda ids, _: _kinds(ids) / len(ids) if len(ids) else math.nan)


def commonest_written(candidates_N: Sequence[Sequence[str]]) -> Statistic:
    """Share of the written sentences that are the most frequent one; NaN where none was written.

    It shows a collapse into one template that a share of distinct sentences still hides.
    """
    return _statistic(_keys(candidates_N), lambda ids, _: _most(ids) / len(ids) if len(ids) else math.nan)


def commonest_in_rewrites(candidates_N: Sequence[Sequence[str]]) -> Statistic:
    """Share of the responses that hold the sentence which most of them hold; 0 where none was written."""
    different = (set(keys) for keys in _keys(candidates_N))
    return _statistic(different, lambda ids, rows: _most(ids) / rows if len(ids) else 0.0)


def _keys(candidates_N: Sequence[Sequence[str]]) -> Iterable[list[str]]:
    return ([sentence_key(sentence) for sentence in candidates] for candidates in candidates_N)


def _kinds(ids: Ints) -> int:
    return int(np.count_nonzero(np.bincount(ids)))


def _most(ids: Ints) -> int:
    return int(np.bincount(ids).max())


def _statistic(things_N: Iterable[Iterable[Hashable]], value: Callable[[Ints, int], float]) -> Statistic:
    """The statistic that is `value` of (ids of the selection's things in reading order, selected rows)."""
    numbers: dict[Hashable, int] = {}
    ids, rows = [], []
    for row, things in enumerate(things_N):
        for thing in things:
            ids.append(numbers.setdefault(thing, len(numbers)))
            rows.append(row)
    ids_T, rows_T = np.array(ids, dtype=np.int64), np.array(rows, dtype=np.int64)

    def statistic(selected_BN: Bools) -> Floats:
        return np.array([value(ids_T[selected_N[rows_T]], int(selected_N.sum())) for selected_N in selected_BN])

    return statistic
