import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from envs import text
from envs.text import SplitText, clean_sentence, insert_sentence, join, remove_sentence, replace_sentence, split

PIECES = ("Hi there", "I'm ok", "no", ".", "!", "?", "...", " ", "  ", "\n", "\r\n", "\n\n", "\r", "\t", "\x00", "\x0b")
PIECES += (
    "\x1c",
    "\x85",
    "\u2028",
    "\u3000",
    "\xa0",
    "\u200b",
    "\ufeff",
    "。",
    "😀",
    "<br>",
    "Dr. X",
    "- a",
    "1. b",
    '"',
    ")",
)
pieced_texts = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)
any_texts = st.one_of(
    st.text(max_size=200), st.text(alphabet=st.characters(exclude_categories=()), max_size=60), pieced_texts
)
candidates = st.one_of(st.just("I am so sorry."), pieced_texts, st.text(max_size=40))


@given(any_texts)
@example("Hello there. \r\n\r\nHow are you?")
@example("half \ud800 a pair. And\udfff more.")
@example("")
def test_splitting_and_joining_lose_nothing(original: str) -> None:
    parts = split(original)
    assert join(parts) == original
    assert all(sentence and sentence == sentence.strip() for sentence in parts.sentences)


@given(any_texts, candidates, st.data())
def test_insertion_adds_one_chunk_and_keeps_every_old_character(
    original: str, candidate: str, data: st.DataObject
) -> None:
    before = split(original)
    index = data.draw(st.integers(0, len(before.sentences)))
    after = insert_sentence(before, index, candidate)
    cleaned = clean_sentence(candidate)
    if not cleaned:
        assert after == before
        return
    assert after.sentences == (*before.sentences[:index], cleaned, *before.sentences[index:])
    edited = join(after)
    if not before.sentences:
        assert edited == cleaned
        return
    added = len(edited) - len(original)
    assert any(edited[:cut] + edited[cut + added :] == original for cut in range(len(original) + 1))
    assert index == 0 or any(map(str.isspace, after.gaps[index - 1]))
    assert index == len(before.sentences) or any(map(str.isspace, after.gaps[index]))


@given(any_texts, candidates, st.data())
def test_removing_undoes_inserting(original: str, candidate: str, data: st.DataObject) -> None:
    before = split(original)
    if not before.sentences or not clean_sentence(candidate):
        return
    index = data.draw(st.integers(0, len(before.sentences)))
    after = remove_sentence(insert_sentence(before, index, candidate), index)
    assert after.sentences == before.sentences
    if index in (0, len(before.sentences)) or any(map(str.isspace, before.gaps[index - 1])):
        assert after == before


@given(any_texts, candidates, st.data())
def test_replacement_keeps_what_surrounds_the_sentence(original: str, candidate: str, data: st.DataObject) -> None:
    before = split(original)
    if not before.sentences:
        return
    index = data.draw(st.integers(0, len(before.sentences) - 1))
    after = replace_sentence(before, index, candidate)
    cleaned = clean_sentence(candidate)
    if not cleaned:
        assert after == before
        return
    assert after.sentences == (*before.sentences[:index], cleaned, *before.sentences[index + 1 :])
    assert after.prefix == before.prefix
    for number, (old, new) in enumerate(zip(before.gaps, after.gaps, strict=True)):
        assert new == old or (number in (index - 1, index) and new == old + " " and not any(map(str.isspace, old)))


@given(any_texts)
def test_cleaning_is_idempotent_and_gives_one_line(sentence: str) -> None:
    cleaned = clean_sentence(sentence)
    assert clean_sentence(cleaned) == cleaned
    assert len(cleaned.splitlines()) <= 1
    cleaned.encode()


@pytest.mark.parametrize(
    ("original", "index", "expected"),
    [
        ("One. Two.", 1, "One. NEW. Two."),
        ("One.\nTwo.", 1, "One.\nNEW.\nTwo."),
        ("One.\n\nTwo.\n", 2, "One.\n\nTwo.\n\nNEW.\n"),
        ("One.\r\n\r\nTwo.", 0, "NEW.\r\n\r\nOne.\r\n\r\nTwo."),
        ("One. \n\n\n\n  Two.", 1, "One.\n\nNEW. \n\n\n\n  Two."),
        ("One.\n", 1, "One. NEW.\n"),
        ("  One.", 0, "  NEW. One."),
        ("Get up.Move on.", 1, "Get up. NEW. Move on."),
        ("", 0, "NEW."),
        (" \n ", 0, "NEW."),
    ],
)
def test_insertion_follows_the_style_of_the_place(original: str, index: int, expected: str) -> None:
    assert join(insert_sentence(split(original), index, " NEW.\n")) == expected


@pytest.mark.parametrize(
    ("original", "index", "expected"),
    [
        ("  One.  Two.\nThree. ", 1, "  One.  NEW\nThree. "),
        ("Get up.Move on.", 0, "NEW Move on."),
        ("Get up.Move on.", 1, "Get up.NEW"),
    ],
)
def test_replacement_never_glues_words(original: str, index: int, expected: str) -> None:
    assert join(replace_sentence(split(original), index, "NEW")) == expected


def test_removal_never_glues_words() -> None:
    glued = SplitText("", ("One", "(two.)", "Three"), ("", "", ""))
    assert join(remove_sentence(glued, 1)) == "One Three"
    assert join(remove_sentence(split(" One. \n"), 0)) == "  \n"


def test_invisible_segments_are_no_sentences() -> None:
    assert split("Hello.\n\n\u200b\n\nBye.").sentences == ("Hello.", "Bye.")
    assert split("\ufeff").sentences == ()
    assert clean_sentence("\u200b\n") == ""


def test_cleaning_puts_a_candidate_on_one_line() -> None:
    assert clean_sentence("  I am\r\n so\x00sorry.\u2028\t") == "I am so sorry."
    assert clean_sentence("\N{FAMILY} \N{WOMAN}\u200d\N{GIRL}") == "\N{FAMILY} \N{WOMAN}\u200d\N{GIRL}"


def test_segments_that_do_not_add_up_fall_back_to_lines() -> None:
    original = "One. Two.\r\nThree.\n"
    assert text._cut_alike(original, original, ["One.", "Two."]) == ["One. Two.\r\n", "Three.\n"]


def test_wide_white_space_does_not_upset_the_splitter() -> None:
    original = "I saw Dr. X\u00a0. He was\u3000kind.\u2028Was he?"
    assert join(split(original)) == original
    assert split(original).sentences == ("I saw Dr. X\u00a0.", "He was\u3000kind.", "Was he?")


def test_a_panic_of_the_splitter_loses_nothing() -> None:
    panicking = "X\u00a0.\nNext line."
    segments = text._library_segments(panicking, "en")
    assert "".join(text._cut_alike(panicking, panicking, segments)) == panicking


def test_many_sentences_split_quickly_and_exactly() -> None:
    original = "I am here for you. " * 5000
    assert len(split(original).sentences) == 5000
    assert join(split(original)) == original


@pytest.mark.parametrize("edit", [insert_sentence, replace_sentence])
def test_places_that_do_not_exist_are_errors(edit) -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError, match="2 sentences"):
            edit(split("One. Two."), index, "NEW")


def test_removing_a_sentence_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(IndexError, match="0 sentences"):
        remove_sentence(split(""), 0)


def test_a_split_without_its_gaps_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 sentences need as many gaps, not 1"):
        SplitText("", ("a", "b"), ("",))
