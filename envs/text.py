"""Sentences of a text, and edits that leave everything else byte for byte as it was.

A text is held as `prefix + sentence_0 + gap_0 + sentence_1 + gap_1 + …`; the prefix and the gaps are the white space
around the sentences, so `join(split(text)) == text` for every string. Sentence boundaries come from the library
`sentencex`, which returns segments that concatenate to its input.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sentencex

logger = logging.getLogger(__name__)

_LINE_BREAK: Final = re.compile(r"\r\n|\r|\n")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_WIDE_SPACE: Final = re.compile(r"[^\S\x00-\x7f]")
_INVISIBLE_CATEGORIES: Final = frozenset({"Cc", "Cf"})
_BREAKING_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
_BLANK_LINE_BREAKS: Final = 2


@dataclass(frozen=True, slots=True)
class SplitText:
    """A text cut into sentences, with what stands between them.

    Attributes:
        prefix: White space before the first sentence; the whole text when it has no sentence.
        sentences: The sentences, `S` of them, without surrounding white space and never blank.
        gaps: `S` pieces of white space (often " ", sometimes ""): `gaps[i]` follows `sentences[i]`.
    """

    prefix: str
    sentences: tuple[str, ...]
    gaps: tuple[str, ...]

    def __post_init__(self) -> None:
        """Reject a split that `join` could not put together.

        Raises:
            ValueError: There is not exactly one gap a sentence.
        """
        if len(self.sentences) != len(self.gaps):
            raise ValueError(f"{len(self.sentences)} sentences need as many gaps, not {len(self.gaps)}")


def split(text: str, language: str = "en") -> SplitText:
    """Cut a text into sentences, losing nothing.

    A segment of white space, control or format characters alone (a zero-width space, say) is no sentence; it joins the
    gap before it.

    Args:
        text: Any string; lone surrogates are kept too.
        language: ISO 639 code that chooses the abbreviations known to the splitter.
    """
    prefix = ""
    sentences: list[str] = []
    gaps: list[str] = []
    for segment in _segments(text, language):
        core = "" if _is_blank(segment) else segment.strip()
        start = segment.index(core) if core else len(segment)
        if sentences:
            gaps[-1] += segment[:start]
        else:
            prefix += segment[:start]
        if core:
            sentences.append(core)
            gaps.append(segment[start + len(core) :])
    return SplitText(prefix, tuple(sentences), tuple(gaps))


def join(split_text: SplitText) -> str:
    """The text that a split stands for; the inverse of `split`."""
    pieces = [split_text.prefix]
    for sentence, gap in zip(split_text.sentences, split_text.gaps, strict=True):
        pieces += (sentence, gap)
    return "".join(pieces)


def clean_sentence(sentence: str) -> str:
    """A generated sentence on one line: line breaks and control characters become spaces, runs of white space one.

    Returns:
        The cleaned sentence; "" when nothing visible is left.
    """
    spaced = "".join(" " if unicodedata.category(char) in _BREAKING_CATEGORIES else char for char in sentence)
    cleaned = " ".join(spaced.split())
    return "" if _is_blank(cleaned) else cleaned


def insert_sentence(split_text: SplitText, index: int, sentence: str) -> SplitText:
    """Put a sentence before sentence `index`, or after the last one when `index` is the number of sentences.

    The new sentence is set apart as its neighbours are: by a line break or blank line where these stand, else by one
    space. Old characters all stay, in their order; only a text without any sentence is replaced as a whole.

    The sentence is cleaned by `clean_sentence`; an empty one leaves the text as it is.

    Raises:
        IndexError: There is no such gap.
    """
    count = len(split_text.sentences)
    if not 0 <= index <= count:
        raise IndexError(f"cannot insert at {index}: the text has {count} sentences")
    candidate = clean_sentence(sentence)
    if not candidate:
        return split_text
    if count == 0:
        return SplitText("", (candidate,), ("",))
    gaps = split_text.gaps
    if index == 0:
        new_gaps = (_separator(gaps[0] if count > 1 else ""), *gaps)
    elif index == count:
        new_gaps = (*gaps[:-1], _separator(gaps[-2] if count > 1 else ""), gaps[-1])
    else:
        old = gaps[index - 1]
        new_gaps = (*gaps[: index - 1], _separator(old), old if _separates(old) else f" {old}", *gaps[index:])
    sentences = (*split_text.sentences[:index], candidate, *split_text.sentences[index:])
    return SplitText(split_text.prefix, sentences, new_gaps)


def replace_sentence(split_text: SplitText, index: int, sentence: str) -> SplitText:
    """Put a sentence in the place of sentence `index`; the white space around it stays.

    A space is added only where two words would otherwise run into each other ("Hi.How" with "Hi." replaced by "Well").

    The sentence is cleaned by `clean_sentence`; an empty one leaves the text as it is.

    Raises:
        IndexError: There is no such sentence.
    """
    _check_sentence(split_text, index)
    candidate = clean_sentence(sentence)
    if not candidate:
        return split_text
    sentences = (*split_text.sentences[:index], candidate, *split_text.sentences[index + 1 :])
    return _unglue(SplitText(split_text.prefix, sentences, split_text.gaps), around=(index - 1, index))


def remove_sentence(split_text: SplitText, index: int) -> SplitText:
    """Take sentence `index` out together with one of the gaps beside it.

    Undoes `insert_sentence(…, index, …)`, except where the neighbours had no white space between them: there the space
    that was added stays.

    Raises:
        IndexError: There is no such sentence.
    """
    _check_sentence(split_text, index)
    count, gaps = len(split_text.sentences), split_text.gaps
    if count == 1:
        return SplitText(split_text.prefix + gaps[0], (), ())
    keeps_gap_after = _separates(gaps[index]) or index == count - 1
    dropped_gap = index - 1 if index > 0 and keeps_gap_after else index
    sentences = (*split_text.sentences[:index], *split_text.sentences[index + 1 :])
    rest = SplitText(split_text.prefix, sentences, (*gaps[:dropped_gap], *gaps[dropped_gap + 1 :]))
    return _unglue(rest, around=(index - 1,))


def _segments(text: str, language: str) -> list[str]:
    # The splitter sees a stand-in, character for character, for what it cannot take: UTF-8 has no lone surrogates, and
    # sentencex 1.0.32 panics at white space of several bytes before a full stop ("X\u00a0.").
    plain = _WIDE_SPACE.sub(" ", _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text))
    return _cut_alike(text, plain, _library_segments(plain, language))


def _library_segments(text: str, language: str) -> list[str]:
    """What the splitter returns, or nothing where it panics."""
    try:
        return list(sentencex.segment(language, text))
    except BaseException as error:
        # A Rust panic is a BaseException of a class that cannot be imported; it must not end a run over one odd post.
        if type(error).__name__ != "PanicException":
            raise
        logger.warning("sentencex panicked on a post of %d characters: its lines are taken as sentences", len(text))
        return []


def _cut_alike(text: str, plain: str, segments: Sequence[str]) -> list[str]:
    """Cut `text` where `segments` cut `plain`, or into lines should the segments not add up to it."""
    if "".join(segments) != plain:
        return text.splitlines(keepends=True)
    pieces, start = [], 0
    for segment in segments:
        pieces.append(text[start : start + len(segment)])
        start += len(segment)
    return pieces


def _is_blank(text: str) -> bool:
    return all(char.isspace() or unicodedata.category(char) in _INVISIBLE_CATEGORIES for char in text)


def _separates(gap: str) -> bool:
    return any(char.isspace() for char in gap)


def _separator(gap: str) -> str:
    """What sets a new sentence apart where `gap` is the custom: its line break or blank line, else one space."""
    return "".join(_LINE_BREAK.findall(gap)[:_BLANK_LINE_BREAKS]) or " "


def _unglue(split_text: SplitText, around: Sequence[int]) -> SplitText:
    """Add a space to those of the gaps `around` in which two words would touch; the outermost gaps are skipped."""
    gaps = list(split_text.gaps)
    for index in around:
        if not 0 <= index < len(gaps) - 1 or _separates(gaps[index]):
            continue
        if split_text.sentences[index][-1].isalnum() and split_text.sentences[index + 1][0].isalnum():
            gaps[index] += " "
    return SplitText(split_text.prefix, split_text.sentences, tuple(gaps))


def _check_sentence(split_text: SplitText, index: int) -> None:
    if not 0 <= index < len(split_text.sentences):
        raise IndexError(f"sentence {index} does not exist: the text has {len(split_text.sentences)} sentences")
