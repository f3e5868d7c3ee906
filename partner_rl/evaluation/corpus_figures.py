"""Figures of a whole corpus of rewrites that no mean over pairs gives: distinct-n and repeated sentences.

Each function reads the texts once and returns a `Statistic`, which counts any selection of their rows again: that is
what intervals and tests need, some hundred times. On all rows the figures are those of `evaluation.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from partner_rl.evaluation.resampling import Bools, Floats, Statistic
from partner_rl.evaluation.text_metrics import sentence_key
from partner_rl.text.words import ngrams, words_of

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What is counted, in reading order: `ids[t]` says what token `t` is, `rows[t]` whose row it stands in."""

    ids: Ints
    rows: Ints
    kinds: int


def _tokens(rows_N: Iterable[Iterable[Hashable]]) -> _Tokens:
    numbers: dict[Hashable, int] = {}
    ids, rows = [], []
    for row, things in enumerate(rows_N):
        for thing in things:
            ids.append(numbers.setdefault(thing, len(numbers)))
            rows.append(row)
    return _Tokens(np.array(ids, dtype=np.int64), np.array(rows, dtype=np.int64), len(numbers))


def _ngrams(response: str, n: int) -> list[tuple[str, ...]]:
    return ngrams(words_of(response), n)


def ngrams_a_response(responses_N: Sequence[str], n: int) -> float:
    """Mean number of n-grams of a response; 0 without responses."""
    return sum(len(_ngrams(response, n)) for response in responses_N) / max(1, len(responses_N))


def distinct_ngrams(responses_N: Sequence[str], n: int, a_response: float | None = None) -> Statistic:
    """Distinct-n of selected responses (see `metrics.distinct_n`).

    Args:
        responses_N: The responses.
        n: Words of an n-gram.
        a_response: Length control: only the first n-grams are counted, this many for each selected response on
            average. Systems with the same number are compared on the same number of n-grams. None counts all.

    Returns:
        The statistic; 0 where there is no n-gram.
    """
    tokens = _tokens(_ngrams(response, n) for response in responses_N)

    def figure(selected_N: Bools) -> float:
        ids = tokens.ids[selected_N[tokens.rows]]
        if a_response is not None:
            ids = ids[: max(1, round(a_response * int(selected_N.sum())))]
        return _kinds(ids, tokens.kinds) / len(ids) if len(ids) else 0.0

    return _over_selections(figure)


def distinct_written(candidates_N: Sequence[Sequence[str]]) -> Statistic:
    """Share of the written sentences that are different; NaN where none was written."""
    tokens = _sentences(candidates_N)

    def figure(selected_N: Bools) -> float:
        ids = tokens.ids[selected_N[tokens.rows]]
        return _kinds(ids, tokens.kinds) / len(ids) if len(ids) else float("nan")

    return _over_selections(figure)


def commonest_written(candidates_N: Sequence[Sequence[str]]) -> Statistic:
    """Share of the written sentences that are the most frequent one; NaN where none was written."""
    tokens = _sentences(candidates_N)

    def figure(selected_N: Bools) -> float:
        ids = tokens.ids[selected_N[tokens.rows]]
        return int(np.bincount(ids).max()) / len(ids) if len(ids) else float("nan")

    return _over_selections(figure)


def commonest_in_rewrites(candidates_N: Sequence[Sequence[str]]) -> Statistic:
    """Share of the responses that hold the sentence which most of them hold; 0 where none was written."""
    tokens = _tokens({sentence_key(sentence) for sentence in candidates} for candidates in candidates_N)

    def figure(selected_N: Bools) -> float:
        ids = tokens.ids[selected_N[tokens.rows]]
        return int(np.bincount(ids).max()) / int(selected_N.sum()) if len(ids) else 0.0

    return _over_selections(figure)


def _sentences(candidates_N: Sequence[Sequence[str]]) -> _Tokens:
    return _tokens([sentence_key(sentence) for sentence in candidates] for candidates in candidates_N)


def _kinds(ids: Ints, kinds: int) -> int:
    return int(np.count_nonzero(np.bincount(ids, minlength=kinds)))


def _over_selections(figure: Callable[[Bools], float]) -> Statistic:
    def statistic(selected_BN: Bools) -> Floats:
        return np.array([figure(selected_N) for selected_N in selected_BN], dtype=np.float64)

    return statistic
