"""Closed-form tests of the metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from partner_rl.evaluation.listener_accuracy import listener_accuracy, listener_hits
from partner_rl.evaluation.text_metrics import (
    change_in_empathy,
    coherence,
    commonest_sentence,
    distinct_n,
    distinct_sentences,
    edit_rate,
    mean,
    mean_length,
    perplexity,
    share_unchanged,
    specificity,
)
from partner_rl.text.words import words_of


def test_change_in_empathy_is_the_mean_of_the_changes() -> None:
    assert change_in_empathy([2.0, -0.5, 0.0]) == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_mean_refuses_what_is_not_finite_and_names_the_row(bad: float) -> None:
    with pytest.raises(ValueError, match="mutual_information: row 1"):
        mean([0.0, bad], "mutual_information")


def test_mean_refuses_an_empty_list() -> None:
    with pytest.raises(ValueError, match="no response"):
        mean([], "length")


def test_perplexity_is_the_inverse_geometric_mean_of_fluency() -> None:
    # Perplexities 2 and 32: the geometric mean is 8, the arithmetic one would be 17.
    assert perplexity([1 / 2, 1 / 32]) == pytest.approx(8.0)


@pytest.mark.parametrize("fluency", [0.0, -0.1, 1.1, math.nan])
def test_perplexity_refuses_what_is_no_probability(fluency: float) -> None:
    with pytest.raises(ValueError, match="row 1"):
        perplexity([0.5, fluency])


def test_coherence_is_a_mean_of_probabilities() -> None:
    assert coherence([0.25, 0.75]) == 0.5
    with pytest.raises(ValueError, match="outside"):
        coherence([1.5])


def test_specificity_is_the_mean_cosine() -> None:
    vectors = {"seeker": (3.0, 0.0), "same": (5.0, 0.0), "half": (1.0, math.sqrt(3.0)), "opposite": (-1.0, 0.0)}

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.array([vectors[text] for text in texts])

    assert specificity(["seeker"], ["half"], embed) == pytest.approx(0.5)
    assert specificity(["seeker"] * 3, ["same", "half", "opposite"], embed) == pytest.approx(0.5 / 3)


def test_specificity_refuses_embeddings_of_the_wrong_shape_or_length_zero() -> None:
    with pytest.raises(ValueError, match="shape"):
        specificity(["a", "b"], ["c", "d"], lambda texts: np.ones((1, 4)))
    with pytest.raises(ValueError, match="zero"):
        specificity(["a"], ["b"], lambda texts: np.zeros((1, 4)))


def test_distinct_n_counts_ngrams_within_responses() -> None:
    responses = ["The cat sat.", "the cat ran"]
    assert distinct_n(responses, 1) == 4 / 6
    assert distinct_n(responses, 2) == 3 / 4
    assert distinct_n(["one"], 2) == 0.0
    with pytest.raises(ValueError, match="at least 1"):
        distinct_n(responses, 0)


def test_distinct_sentences_ignores_case_and_punctuation() -> None:
    written = ["I hear you.", "i hear you!", "That sounds hard", "I don’t know.", "I don't know"]
    assert distinct_sentences(written) == 3 / 5
    assert commonest_sentence(written) == 2 / 5
    assert distinct_sentences([]) is None
    assert commonest_sentence([]) is None


def test_distinct_sentences_tells_emoji_apart() -> None:
    assert distinct_sentences(["🙂", "🙁", "🙂"]) == 2 / 3


def test_edit_rate_is_word_distance_over_the_original_length() -> None:
    # Four words inserted into four, and one of two substituted.
    assert edit_rate(["a b c d"], ["x y z w a b c d"]) == 1.0
    assert edit_rate(["a b c d", "a b"], ["x y z w a b c d", "a c"]) == 0.75
    assert edit_rate(["a b"], ["a b"]) == 0.0
    with pytest.raises(ValueError, match="row 0 has no word"):
        edit_rate(["  "], ["a"])


def test_share_unchanged_and_length() -> None:
    assert share_unchanged(["a", "b c"], ["a", "b  c"]) == 0.5
    assert mean_length(["one two", "one two three four"]) == 3.0


def test_words_fold_case_and_keep_contractions() -> None:
    assert words_of("Don’t WORRY — it's ok…") == ("don't", "worry", "it's", "ok")


def numbered(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """A direction for each number in a text, the same small one for all that have none."""
    rows = np.full((len(texts), 40), 0.01)
    for row, text in enumerate(texts):
        for word in text.split():
            if word.isdecimal():
                rows[row, int(word)] = 1.0
    return rows


def test_a_listener_finds_the_post_that_a_sentence_speaks_of() -> None:
    posts = [f"trouble number {number}" for number in range(20)]
    named = [[f"about {number}"] for number in range(20)]
    assert listener_accuracy(posts, named, numbered) == 1.0
    # Half of what is said speaks of another post: a miss, or a tie of 16 where that post is not among the candidates.
    mixed = [[f"about {number}", f"about {(number + 1) % 20}"] for number in range(20)]
    found = listener_accuracy(posts, mixed, numbered)
    assert found is not None
    assert 0.5 <= found < 0.52
    assert listener_accuracy(posts, [["sorry"]] * 20, numbered) == pytest.approx(1 / 16)


def test_a_listener_counts_only_what_was_written() -> None:
    posts = [f"trouble number {number}" for number in range(20)]
    sentences: list[list[str]] = [[], *([f"about {number}"] for number in range(1, 20))]
    hits_N = listener_hits(posts, sentences, numbered)
    assert np.isnan(hits_N[0])
    assert (hits_N[1:] == 1.0).all()
    assert listener_accuracy(posts, sentences, numbered) == 1.0
    assert listener_accuracy(posts, [[]] * 20, numbered) is None
    # Sixteen posts of which two are one, white space and case aside, are too few.
    assert listener_accuracy([*posts[:15], " Trouble  number 0"], [["about 0"]] * 16, numbered) is None
    with pytest.raises(ValueError, match="20 posts but 1 responses"):
        listener_hits(posts, [[]], numbered)


def test_a_listener_chooses_among_the_same_posts_for_every_system() -> None:
    posts = [f"trouble number {number}" for number in range(40)]
    order = np.random.default_rng(0).permutation(40)
    sentences = [[f"about {number} or {(number + 7) % 40}"] for number in range(40)]
    hits_N = listener_hits(posts, sentences, numbered)
    # The other number is among 15 of 39 posts or so, and ties with the true one.
    assert {float(share) for share in hits_N} == {0.5, 1.0}
    moved_N = listener_hits([posts[row] for row in order], [sentences[row] for row in order], numbered)
    np.testing.assert_array_equal(moved_N, hits_N[order])
