"""The window around an edit: the edit is inside, the context is shared, the budget is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.window import window

SENTENCES = [f"Thing{i} goes as day{i} did, and word{i} stays." for i in range(40)]
"""All words of a sentence are its own, so that there is one way to say what was edited."""
LONGEST = len(SENTENCES[-1].split())


def fits_in(budget: int):
    """Fits in so many words, white space aside."""
    return lambda text: len(text.split()) <= budget


def inserted(sentences: list[str], at: int, sentence: str) -> list[str]:
    return [*sentences[:at], sentence, *sentences[at:]]


@given(st.integers(0, 10), st.integers(0, 10))
def test_texts_that_fit_are_passed_through_unchanged(count: int, at: int):
    original = "  \n".join(SENTENCES[:count])
    rewritten = "  \n".join(inserted(SENTENCES[:count], min(at, count), "I hear you."))
    assert window(original, rewritten, fits_in(100_000)) == (original, rewritten)


@given(
    count=st.integers(1, 40),
    at=st.integers(0, 40),
    candidate=st.lists(st.sampled_from(["I", "hear", "you.", "so", "Thing3", "goes"]), min_size=1, max_size=12),
    replace=st.booleans(),
    budget=st.integers(45, 80),
)
def test_the_edit_is_inside_and_the_context_is_shared(
    count: int, at: int, candidate: list[str], replace: bool, budget: int
):
    sentence = " ".join(candidate)
    own = SENTENCES[:count]
    at = min(at, count - 1 if replace else count)
    edited = [*own[:at], sentence, *own[at + 1 :]] if replace else inserted(own, at, sentence)
    original, rewritten = " ".join(own), " ".join(edited)
    before, after = window(original, rewritten, fits_in(budget))
    assert fits_in(budget)(before)
    assert fits_in(budget)(after)
    assert sentence in after
    # Taking the sentence out of one window and the replaced one out of the other leaves the same words.
    left = before.replace(own[at], "", 1) if replace else before
    assert any(
        (after[:i] + after[i + len(sentence) :]).split() == left.split()
        for i in range(len(after))
        if after.startswith(sentence, i)
    )
    # No room is left that the next words on both sides could have taken.
    if len(edited) * LONGEST > 2 * budget:
        assert len(after.split()) >= budget - LONGEST - len(candidate) - 2


def test_the_context_is_what_stands_nearest():
    own = [f"w{i}" for i in range(20)]
    before, after = window(" ".join(own), " ".join(inserted(own, 10, "NEW")), fits_in(5))
    assert after == "w8 w9 NEW w10 w11"
    assert before == "w8 w9 w10 w11"
    assert window(" ".join(own), " ".join(inserted(own, 20, "NEW")), fits_in(5))[1] == "w16 w17 w18 w19 NEW"
    assert window(" ".join(own), " ".join(inserted(own, 0, "NEW")), fits_in(5))[1] == "NEW w0 w1 w2 w3"


def test_a_sentence_that_resembles_its_neighbour_is_whole():
    own = [*(f"w{i}" for i in range(20)), "I am sad today", *(f"v{i}" for i in range(20))]
    before, after = window(" ".join(own), " ".join(inserted(own, 20, "I am here.")), fits_in(7))
    # Both "I am" may be the new one: the window covers both readings.
    assert "I am here. I am" in after
    assert "I am" in before


def test_edits_far_apart_have_a_window_each():
    own = [f"w{i}" for i in range(100)]
    edited = [*own[:10], "FIRST", *own[10:90], "SECOND", *own[91:]]
    before, after = window(" ".join(own), " ".join(edited), fits_in(20))
    assert after == "w6 w7 w8 w9 FIRST w10 w11 w12 w13 … w86 w87 w88 w89 SECOND w91 w92 w93 w94"
    assert before == "w6 w7 w8 w9 w10 w11 w12 w13 … w86 w87 w88 w89 w90 w91 w92 w93 w94"


def test_words_between_edits_stay_where_they_fit():
    own = [f"w{i}" for i in range(100)]
    edited = [*own[:40], "FIRST", *own[40:50], "SECOND", *own[50:]]
    before, after = window(" ".join(own), " ".join(edited), fits_in(20))
    assert after == " ".join([*own[36:40], "FIRST", *own[40:50], "SECOND", *own[50:54]])
    assert before == " ".join(own[36:54])


@pytest.mark.parametrize(
    ("original", "rewritten"),
    [
        (" ".join(f"w{i}" for i in range(99)), " ".join(f"v{i}" for i in range(99))),
        ("no " * 60, "no " * 61),
        ("a  b " * 40, "a b " * 40),
        ("x" * 500, "y" * 500),
        ("", "z " * 50),
        ("寂しいですね。" * 60, "そうですか。 " + "寂しいですね。" * 60),
    ],
)
def test_texts_without_a_clear_edit_keep_the_budget(original: str, rewritten: str):
    def fits(text: str) -> bool:
        return len(text) <= 100

    found = window(original, rewritten, fits)
    assert all(map(fits, found))
    assert found[1]
    if "寂" in original:
        assert found[1].startswith("そうですか。")


@given(st.text(max_size=300), st.text(max_size=300), st.integers(0, 120))
def test_any_two_texts_keep_the_budget(original: str, rewritten: str, budget: int):
    before, after = window(original, rewritten, lambda text: len(text) <= budget)
    assert len(before) <= budget
    assert len(after) <= budget


@given(st.integers(0, 39), st.integers(20, 60))
def test_which_text_is_the_original_makes_no_difference(at: int, budget: int):
    original, rewritten = " ".join(SENTENCES), " ".join(inserted(SENTENCES, at, "I hear you."))
    assert window(original, rewritten, fits_in(budget)) == window(rewritten, original, fits_in(budget))[::-1]
