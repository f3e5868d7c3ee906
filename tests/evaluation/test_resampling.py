"""Intervals cover the truth; tests agree with exact enumeration and with scipy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from partner_rl.evaluation import resampling
from partner_rl.evaluation.corpus_metrics import distinct_ngrams
from partner_rl.evaluation.resampling import (
    Interval,
    corpus_p_value,
    flips,
    half_sample_interval,
    half_samples,
    holm,
    mean_interval,
    mean_p_value,
    share_interval,
)


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        found = mean_interval(random.exponential(2.0, 60), seed=trial)
        covered += found.low <= 2.0 <= found.high
    # 95 % of 60 is 57; fewer than 50 has a chance of about 1 in 10,000.
    assert covered >= 50


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide():
    values = np.random.default_rng(1).normal(3.0, 1.0, 400)
    found = mean_interval(values, seed=0)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_intervals_of_few_or_equal_values():
    assert mean_interval(np.array([1.0]), 0) is None
    assert mean_interval(np.array([2.0, 2.0, 2.0]), 0) == Interval(2.0, 2.0)
    # None of ten may still be a quarter of all.
    found = share_interval(np.zeros(10, dtype=bool))
    assert found.low == 0.0
    assert found.high == pytest.approx(0.2775, abs=1e-3)
    assert share_interval(np.zeros(0, dtype=bool)) is None


def test_half_samples_are_halves_and_their_spread_is_that_of_the_mean():
    for pairs in (100, 101):
        values = np.random.default_rng(2).normal(0.0, 1.0, pairs)
        halves = half_samples(pairs, seed=3)
        assert (halves.sum(axis=1) == pairs // 2).all()
        means = halves @ values / (pairs // 2)
        found = half_sample_interval(values.mean(), means, pairs)
        expected = 2 * 1.96 * values.std() / np.sqrt(pairs)
        assert found.high - found.low == pytest.approx(expected, rel=0.15)
        assert found.low < values.mean() < found.high


def test_the_interval_of_distinct_2_holds_the_value_of_other_corpora_of_the_same_size():
    random = np.random.default_rng(4)
    words = [f"w{i}" for i in range(40)]

    def corpus() -> list[str]:
        return [" ".join(random.choice(words, 8)) for _ in range(60)]

    def value(texts: list[str]) -> float:
        return float(distinct_ngrams(texts, 2)(np.ones((1, 60), dtype=bool))[0])

    truth = np.mean([value(corpus()) for _ in range(100)])
    covered = 0
    for trial in range(20):
        texts = corpus()
        halves = distinct_ngrams(texts, 2)(half_samples(60, seed=trial))
        found = half_sample_interval(value(texts), halves, 60)
        covered += found.low <= truth <= found.high
    # Half-samples of 60 texts have more distinct pairs than the whole: an interval that was not centred would miss all.
    assert covered >= 16


def test_a_metric_that_is_not_defined_or_of_few_pairs_has_no_interval():
    assert half_sample_interval(0.5, np.full(400, np.nan), 20) is None
    assert half_sample_interval(0.5, np.full(400, 0.5), 7) is None


def test_the_test_of_six_pairs_is_the_exact_enumeration():
    differences = np.array([0.5, 1.0, -0.25, 2.0, 0.75, 0.1])
    observed = abs(differences.mean())
    enumerated = [abs(np.mean(differences * signs)) for signs in product((1, -1), repeat=6)]
    expected = np.mean([found >= observed - 1e-12 for found in enumerated])
    assert mean_p_value(differences, seed=0) == pytest.approx(expected)
    scipys = stats.permutation_test((differences, np.zeros(6)), lambda a, b: np.mean(a - b), permutation_type="samples")
    assert mean_p_value(differences, seed=0) == pytest.approx(scipys.pvalue)


def test_random_permutations_agree_with_the_t_test():
    differences = np.random.default_rng(5).normal(0.15, 1.0, 200)
    assert mean_p_value(differences, seed=0) == pytest.approx(stats.ttest_1samp(differences, 0.0).pvalue, abs=0.02)
    assert mean_p_value(differences + 5.0, seed=0) == pytest.approx(1 / (resampling.FLIPS + 1))
    assert mean_p_value(np.zeros(50), seed=0) == 1.0


def test_all_permutations_are_listed_when_they_are_few():
    swapped, exact = flips(6, resampling.FLIPS, seed=0)
    assert exact
    assert len({tuple(row) for row in swapped}) == 64
    swapped, exact = flips(40, 100, seed=0)
    assert not exact
    assert swapped.shape == (100, 40)


def test_corpus_metrics_are_tested_by_exchanging_the_systems_of_a_pair():
    def mean(rows):
        return lambda selected_BN: selected_BN @ rows / selected_BN.sum(axis=1)

    first, second = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0]), np.array([2.0, 6.0, 5.0, 3.0, 5.0, 8.0])
    interleaved = np.stack([first, second], axis=1).ravel()
    assert corpus_p_value(mean(interleaved), 6, seed=0) == pytest.approx(mean_p_value(first - second, seed=0))
    assert corpus_p_value(lambda selected_BN: np.full(len(selected_BN), np.nan), 6, seed=0) is None


def test_varied_and_repeated_texts_differ_in_distinct_2():
    varied = [f"one{i} two{i} three{i}" for i in range(20)]
    same = ["one two three"] * 20
    interleaved = [text for both in zip(varied, same, strict=True) for text in both]
    assert corpus_p_value(distinct_ngrams(interleaved, 2), 20, seed=0) < 0.01
    alike = [text for text in varied for _ in range(2)]
    assert corpus_p_value(distinct_ngrams(alike, 2), 20, seed=0) == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
