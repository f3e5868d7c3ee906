"""Closed-form tests of what texts tell of each pair."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from partner_rl.evaluation.text_metrics import edit_rates, listener_hits, similarities
from partner_rl.text.words import words_of


def test_specificity_is_the_cosine() -> None:
    vectors = {"seeker": (3.0, 0.0), "same": (5.0, 0.0), "half": (1.0, math.sqrt(3.0)), "opposite": (-1.0, 0.0)}

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.array([vectors[text] for text in texts])

    assert similarities(["seeker"] * 3, ["same", "half", "opposite"], embed) == pytest.approx([1.0, 0.5, -1.0])


def test_specificity_refuses_embeddings_of_the_wrong_shape_or_length_zero() -> None:
    with pytest.raises(ValueError, match="shape"):
        similarities(["a", "b"], ["c", "d"], lambda texts: np.ones((1, 4)))
    with pytest.raises(ValueError, match="zero"):
        similarities(["a"], ["b"], lambda texts: np.zeros((1, 4)))


def test_edit_rate_is_word_distance_over_the_original_length() -> None:
    # Four words inserted into four, and one of two substituted.
    assert edit_rates(["a b c d", "a b"], ["x y z w a b c d", "a c"]) == [1.0, 0.5]
    assert edit_rates(["a b"], ["a b"]) == [0.0]
    with pytest.raises(ValueError, match="row 0 has no word"):
        edit_rates(["  "], ["a"])


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
    assert (listener_hits(posts, named, numbered) == 1.0).all()
    # Half of what is said speaks of another post: a miss, or a tie of 16 where that post is not among the candidates.
    mixed = [[f"about {number}", f"about {(number + 1) % 20}"] for number in range(20)]
    assert 0.5 <= listener_hits(posts, mixed, numbered).mean() < 0.52
    assert listener_hits(posts, [["sorry"]] * 20, numbered) == pytest.approx(np.full(20, 1 / 16))


def test_a_listener_counts_only_what_was_written() -> None:
    posts = [f"trouble number {number}" for number in range(20)]
    sentences: list[list[str]] = [[], *([f"about {number}"] for number in range(1, 20))]
    hits_N = listener_hits(posts, sentences, numbered)
    assert np.isnan(hits_N[0])
    assert (hits_N[1:] == 1.0).all()
    assert np.isnan(listener_hits(posts, [[]] * 20, numbered)).all()
    # Sixteen posts of which two are one, white space and case aside, are too few.
    assert np.isnan(listener_hits([*posts[:15], " Trouble  number 0"], [["about 0"]] * 16, numbered)).all()
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
