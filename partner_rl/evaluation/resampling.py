"""Intervals and paired tests by resampling over pairs.

All systems answer the same pairs, so that a pair is the unit of every resample, and a difference between two systems
is resampled as a difference. Legend: `_N` pairs, `_B` resamples.

Sources: BCa bootstrap (Efron 1987) by `scipy.stats.bootstrap`; Wilson's interval for shares; delete-half jackknife
(Shao and Wu 1989) for metrics of a whole corpus; sign-flip permutation test (Good 2005); Holm (1979).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

Statistic = Callable[[Bools], Floats]
"""Selections of rows `[B, N]` → the metric of each selection, `[B]`; NaN where it is not defined."""

CONFIDENCE: Final = 0.95
"""Coverage of every interval."""
BOOTSTRAPS: Final = 2000
"""Resamples of a mean."""
HALF_SAMPLES: Final = 400
"""Half-samples of a corpus metric."""
FLIPS: Final = 5000
"""Random sign flips of a test of means; the smallest p value is 1 over this plus 1."""
CORPUS_FLIPS: Final = 1000
"""Random exchanges of a test of corpus metrics, each of which counts a corpus anew."""

_FEWEST_PAIRS: Final = 2
_FEWEST_HALVED: Final = 8
_BATCH: Final = 250
_TIE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


def mean_interval(values_N: Floats, seed: int) -> Interval | None:
    """BCa bootstrap interval of the mean over pairs.

    One seed and one number of pairs give every system the same resamples.

    Returns:
        The interval; that of a constant is the constant. None for fewer than two pairs.
    """
    if len(values_N) < _FEWEST_PAIRS:
        return None
    if float(np.ptp(values_N)) <= _TIE:
        return Interval(float(values_N.mean()), float(values_N.mean()))
    found = stats.bootstrap(
        (values_N,),
        np.mean,
        n_resamples=BOOTSTRAPS,
        batch=_BATCH,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


def share_interval(hits_N: Bools) -> Interval | None:
    """Wilson's interval of a share: unlike a bootstrap it knows that 0 of 10 may still be a few in a hundred.

    Returns:
        The interval; None without pairs.
    """
    if not len(hits_N):
        return None
    found = stats.binomtest(int(hits_N.sum()), len(hits_N)).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(found.low), float(found.high))


def half_samples(pairs: int, seed: int) -> Bools:
    """Random halves of the pairs, shape `[HALF_SAMPLES, N]`, the same for every system."""
    order_BN = np.random.default_rng(seed).random((HALF_SAMPLES, pairs)).argsort(axis=1)
    return order_BN < pairs // 2


def half_sample_interval(value: float, halves_B: Floats, pairs: int) -> Interval | None:
    """Interval of a corpus metric from its values on half-samples, centred on its value.

    A bootstrap would draw pairs twice, and a response drawn twice is a repeat that the system never wrote: distinct-n
    would fall. Halves are drawn without replacement. Their spread is that of the whole corpus: half the pairs double
    the variance, and drawing them without replacement halves it. Their mean is not, as such metrics depend on the
    size, so only the deviations from it are used.

    Args:
        value: That of the whole corpus, or a difference of two.
        halves_B: The same on each half-sample; NaN ones are left out.
        pairs: Pairs of the corpus.

    Returns:
        The interval; None where the corpus is too small to be halved or the metric is not defined.
    """
    defined_B = halves_B[np.isfinite(halves_B)]
    if pairs < _FEWEST_HALVED or not np.isfinite(value) or len(defined_B) < HALF_SAMPLES // 2:
        return None
    # An odd corpus is not halved exactly: the spread of m of n pairs is (n - m) / m times that of n.
    half = pairs // 2
    scale = float(np.sqrt(half / (pairs - half)))
    deviations_B = (defined_B - defined_B.mean()) * scale
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(deviations_B, (tail, 100 - tail))
    return Interval(value + float(low), value + float(high))


def flips(pairs: int, count: int, seed: int) -> tuple[Bools, bool]:
    """Which pairs exchange the two systems in each permutation.

    Returns:
        Exchanges `[B, N]`: all `2^N` of them when these are at most `count`, else `count` random ones; and whether
        they are all.
    """
    if pairs < count.bit_length():
        return np.array(list(product((False, True), repeat=pairs)), dtype=np.bool_), True
    return np.random.default_rng(seed).random((count, pairs)) < 1 / 2, False


def mean_p_value(differences_N: Floats, seed: int) -> float:
    """Two-sided p value of the paired permutation test that the mean difference is 0.

    Under the null hypothesis a pair's two values may be exchanged, which turns the sign of their difference.
    """
    swapped_BN, exact = flips(len(differences_N), FLIPS, seed)
    found_B = differences_N.mean() - 2 * (swapped_BN @ differences_N) / len(differences_N)
    return _p_value(float(differences_N.mean()), found_B, exact)


def corpus_p_value(statistic: Statistic, pairs: int, seed: int) -> float | None:
    """Two-sided p value of the paired permutation test that two systems' corpus metrics are the same.

    Args:
        statistic: The metric of a selection of `2N` rows, which are the first system's answer to pair 0, the second
            system's answer to pair 0, the first's to pair 1, and so on.
        pairs: `N`.
        seed: Decides the permutations.

    Returns:
        The p value; None where the metric of a system is not defined.
    """
    swapped_BN, exact = flips(pairs, CORPUS_FLIPS, seed)
    swapped_BN = np.concatenate([np.zeros((1, pairs), dtype=np.bool_), swapped_BN])
    first_B2N, second_B2N = (
        np.stack(sides, axis=2).reshape(len(swapped_BN), 2 * pairs)
        for sides in (
            (~swapped_BN, swapped_BN),
            (swapped_BN, ~swapped_BN),
        )
    )
    difference_B = statistic(first_B2N) - statistic(second_B2N)
    if not np.isfinite(difference_B[0]):
        return None
    found_B = difference_B[1:]
    return _p_value(float(difference_B[0]), found_B[np.isfinite(found_B)], exact)


def _p_value(observed: float, found_B: Floats, exact: bool) -> float:
    """The share of permutations at least as far from 0; the observed arrangement counts as one of random ones."""
    as_far = int(np.count_nonzero(np.abs(found_B) >= abs(observed) - _TIE))
    return as_far / len(found_B) if exact else (1 + as_far) / (1 + len(found_B))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of several p values: the k-th smallest of m times `m − k + 1`, never decreasing, at most 1."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
