"""Corpus figures of selections, by hand and beside the plain metrics."""

from __future__ import annotations

import numpy as np
import pytest

from partner_rl.evaluation import corpus_figures
from partner_rl.evaluation.text_metrics import REFERENCES, commonest_sentence, distinct_n, distinct_sentences, self_bleu

TEXTS = ["I hear you. I hear you.", "you hear me", "", "Word", "I hear them, you know"]
WRITTEN = [("I hear you.", "i hear you"), ("You hear me!",), (), ("I hear you?",), ("What now?",)]
ALL = np.ones((1, 5), dtype=bool)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_n_of_everything_is_the_plain_metric(n):
    assert corpus_figures.distinct_ngrams(TEXTS, n)(ALL) == pytest.approx([distinct_n(TEXTS, n)])


def test_distinct_n_of_a_selection_counts_its_rows_alone():
    selected = np.array([[True, True, False, False, False], [False, False, True, False, False]])
    # i-hear hear-you you-i i-hear hear-you; you-hear hear-me: 5 of 7. The empty text has no pair.
    assert corpus_figures.distinct_ngrams(TEXTS, 2)(selected) == pytest.approx([5 / 7, 0.0])


def test_equal_length_counts_the_first_ngrams_alone():
    texts = ["a b c", "a b c d e"]
    assert corpus_figures.ngrams_a_response(texts, 2) == 3
    whole = np.ones((1, 2), dtype=bool)
    assert corpus_figures.distinct_ngrams(texts, 2, 2.0)(whole) == pytest.approx([2 / 4])
    assert corpus_figures.distinct_ngrams(texts, 2, 3.0)(whole) == corpus_figures.distinct_ngrams(texts, 2)(whole)


def test_written_sentences():
    sentences = [sentence for row in WRITTEN for sentence in row]
    assert corpus_figures.distinct_written(WRITTEN)(ALL) == pytest.approx([distinct_sentences(sentences)])
    assert corpus_figures.commonest_written(WRITTEN)(ALL) == pytest.approx([commonest_sentence(sentences)])
    # Twice in one response counts once: 2 of the 5 responses hold it.
    assert corpus_figures.commonest_in_rewrites(WRITTEN)(ALL) == pytest.approx([2 / 5])
    nothing = np.array([[False, False, True, False, False]])
    assert np.isnan(corpus_figures.distinct_written(WRITTEN)(nothing)).all()
    assert np.isnan(corpus_figures.commonest_written(WRITTEN)(nothing)).all()
    assert corpus_figures.commonest_in_rewrites(WRITTEN)(nothing) == [0.0]


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
