"""Duplicates agree in both posts; the first of a group stays; the error rates are those of the formula."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from partner_rl.curation.duplicates import (
    BANDS,
    exact_keys,
    mark_exact,
    mark_near,
    signatures,
    similarities,
    words,
)

Words = list[str]


def keys(*pairs: tuple[str, str]) -> list[int]:
    return exact_keys([words(seeker) for seeker, _ in pairs], [words(response) for _, response in pairs]).tolist()


def sentence(rng: np.random.Generator, length: int = 40) -> Words:
    return [f"w{number}" for number in rng.integers(0, 5000, length)]


def edited(post: Words, rng: np.random.Generator, edits: int) -> Words:
    new = post.copy()
    for place in rng.choice(len(post), edits, replace=False):
        new[place] = f"new{rng.integers(10**9)}"
    return new


def jaccard(a: Words, b: Words) -> float:
    first, second = set(pairwise(a)), set(pairwise(b))
    return len(first & second) / len(first | second)


def bands(seekers: list[Words], responses: list[Words]) -> np.ndarray:
    return np.ascontiguousarray(signatures(seekers, responses).T)


def near(seekers: list[Words], responses: list[Words]) -> list[bool]:
    bands_DN = bands(seekers, responses)
    return mark_near(bands_DN, np.ones(len(seekers), dtype=bool)).tolist()


def test_case_punctuation_and_spacing_do_not_count():
    a, b, c, d = keys(
        ("I am sad.", "Oh no!"), ("i am  SAD", "oh, no"), ("I am sad.", "Oh yes!"), ("I am", "sad. Oh no!")
    )
    assert a == b
    assert len({a, c, d}) == 3


def test_posts_without_words_are_compared_as_they_are():
    assert len(set(keys((":)", "ok"), (":(", "ok"), (":)", "ok")))) == 2
    assert words("ﬁne Straße") == ["fine", "strasse"]


def test_the_first_of_the_exact_ones_stays():
    assert mark_exact(np.array([5, 3, 5, 5, 3, 1], dtype=np.uint64)).tolist() == [False, False, True, True, True, False]


def test_both_sides_must_agree():
    rng = np.random.default_rng(0)
    a, b, c, d = (sentence(rng) for _ in range(4))
    small = edited(a, rng, 1)
    seekers = [a, a, c, small, small, b]
    responses = [b, d, b, edited(b, rng, 1), d, a]
    # The last one has the sides exchanged.
    assert near(seekers, responses) == [False, False, False, True, True, False]


def test_the_first_of_each_group_stays_wherever_its_members_are():
    rng = np.random.default_rng(1)
    groups = [[sentence(rng), sentence(rng)] for _ in range(30)]
    order = rng.permutation(np.repeat(np.arange(30), 5))
    seekers = [edited(groups[g][0], rng, 1) for g in order]
    responses = [edited(groups[g][1], rng, 1) for g in order]
    seen: set[int] = set()
    expected = [g in seen or bool(seen.add(g)) for g in order.tolist()]
    found = near(seekers, responses)
    assert np.mean(np.array(found) == expected) > 0.97


def test_rows_that_are_no_candidates_count_for_nothing():
    a = [["x", "y", "z"]] * 3
    marks = mark_near(bands(a, a), np.array([False, True, True]))
    assert marks.tolist() == [False, False, True]


def test_similarities_are_estimated_without_bias():
    rng = np.random.default_rng(2)
    originals = [sentence(rng) for _ in range(600)]
    copies = [edited(post, rng, edits) for post, edits in zip(originals, rng.integers(0, 9, 600), strict=True)]
    true = np.array([jaccard(a, b) for a, b in zip(originals, copies, strict=True)])
    bands_DN = bands([*originals, *copies], [*originals, *copies[::-1]])
    seeker, response = similarities(bands_DN, np.arange(600), np.arange(600, 1200))
    assert abs((seeker - true).mean()) < 0.01
    assert np.sqrt(((seeker - true) ** 2).mean()) < 0.065
    assert response.mean() < 0.05


def test_pairs_are_compared_as_often_as_the_formula_says():
    rng = np.random.default_rng(3)
    originals = [sentence(rng) for _ in range(1500)]
    copies = [edited(post, rng, 4) for post in originals]
    similarity = np.array([jaccard(a, b) for a, b in zip(originals, copies, strict=True)])
    bands_DN = bands([*originals, *copies], [*originals, *copies])
    met = (bands_DN[:, :1500] == bands_DN[:, 1500:]).any(axis=0).mean()
    # Both sides are the same text here, so that their bands agree together: (s)^4 instead of (s·r)^4.
    assert met == pytest.approx(np.mean(1 - (1 - similarity**4) ** BANDS), abs=0.03)


def test_batches_do_not_change_signatures():
    rng = np.random.default_rng(4)
    posts = [sentence(rng, length) for length in (1, 2, 7, 30)]
    together = signatures(posts, posts[::-1])
    alone = [signatures([post], [other])[0] for post, other in zip(posts, posts[::-1], strict=True)]
    assert together.tolist() == [row.tolist() for row in alone]
    assert signatures([], []).shape == (0, BANDS)
