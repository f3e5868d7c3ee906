"""Corpus metrics of everything and of selections, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from partner_rl.evaluation import corpus_metrics
from partner_rl.evaluation.text_metrics import REFERENCES, self_bleu

TEXTS = ["I hear you. I hear you.", "you hear me", "", "Word", "I hear them, you know"]
WRITTEN = [("I hear you.", "i hear you"), ("You hear me!",), (), ("I hear you?",), ("What now?",)]
ALL = np.ones((1, 5), dtype=bool)


def whole(statistic, rows):
    (value,) = statistic(np.ones((1, rows), dtype=bool))
    return value


def test_distinct_n_counts_ngrams_within_responses():
    responses = ["The cat sat.", "the cat ran"]
    assert whole(corpus_metrics.distinct_ngrams(responses, 1), 2) == 4 / 6
    assert whole(corpus_metrics.distinct_ngrams(responses, 2), 2) == 3 / 4
    assert whole(corpus_metrics.distinct_ngrams(["one"], 2), 1) == 0.0


def test_sentences_are_the_same_without_case_and_punctuation_and_emoji_are_told_apart():
    written = [["I hear you.", "i hear you!"], ["That sounds hard"], ["I don’t know.", "I don't know"]]
    assert whole(corpus_metrics.distinct_written(written), 3) == 3 / 5
    assert whole(corpus_metrics.commonest_written(written), 3) == 2 / 5
    assert whole(corpus_metrics.distinct_written([["🙂", "🙁", "🙂"]]), 1) == 2 / 3


def test_distinct_n_of_a_selection_counts_its_rows_alone():
    selected = np.array([[True, True, False, False, False], [False, False, True, False, False]])
    # i-hear hear-you you-i i-hear hear-you; you-hear hear-me: 5 of 7. The empty text has no pair.
    assert corpus_metrics.distinct_ngrams(TEXTS, 2)(selected) == pytest.approx([5 / 7, 0.0])


def test_equal_length_counts_the_first_ngrams_alone():
    texts = ["a b c", "a b c d e"]
    assert corpus_metrics.ngrams_a_response(texts, 2) == 3
    assert whole(corpus_metrics.distinct_ngrams(texts, 2, 2.0), 2) == 2 / 4
    assert whole(corpus_metrics.distinct_ngrams(texts, 2, 3.0), 2) == whole(corpus_metrics.distinct_ngrams(texts, 2), 2)


def test_written_sentences():
    assert corpus_metrics.distinct_written(WRITTEN)(ALL) == pytest.approx([3 / 5])
    assert corpus_metrics.commonest_written(WRITTEN)(ALL) == pytest.approx([3 / 5])
    # Twice in one response counts once: 2 of the 5 responses hold it.
    assert corpus_metrics.commonest_in_rewrites(WRITTEN)(ALL) == pytest.approx([2 / 5])
    nothing = np.array([[False, False, True, False, False]])
    assert np.isnan(corpus_metrics.distinct_written(WRITTEN)(nothing)).all()
    assert np.isnan(corpus_metrics.commonest_written(WRITTEN)(nothing)).all()
    assert corpus_metrics.commonest_in_rewrites(WRITTEN)(nothing) == [0.0]


def test_self_bleu_of_the_same_and_of_different_responses():
    assert self_bleu(["We are here for you."] * 4) == pytest.approx([1.0] * 4)
    different = [f"a{i} b{i} c{i} d{i} e{i}" for i in range(REFERENCES + 20)]
    assert max(self_bleu(different)) < 0.1
    mixed = self_bleu(["One and the same thing.", *different[:9], "one and the same thing"])
    assert mixed[0] == mixed[-1] == pytest.approx(1.0)
    assert self_bleu(["Alone in the world."]) == [0.0]
    assert self_bleu(["", "..."]) == [0.0, 0.0]


def test_self_bleu_of_a_short_response_is_defined():
    assert self_bleu(["Hello there", "hello there"]) == pytest.approx([1.0, 1.0])
