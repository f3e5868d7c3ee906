"""One raw record → one checked pair, or the reason why not."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from partner_rl.data.schema import level_column, rationales_column
from partner_rl.types import MAX_LEVEL, MECHANISMS, Example, MechanismLabel

DROPPED_RATIONALE: Final = "rationale left out: not part of the response"
"""Remark on a row with a rationale that the response does not hold."""

LEVEL_ZERO_RATIONALE: Final = "rationales left out: the level is 0"
"""Remark on a row with rationales for a mechanism of level 0."""

_LEVELS: Final = {str(level) + ending: level for level in range(MAX_LEVEL + 1) for ending in ("", ".0")}
_PIECE: Final = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#39);|\s+|.", re.DOTALL)
_ID_DIGEST_BYTES: Final = 8


class BadRowError(Exception):
    """A row cannot be used; the message says why and holds no text of any post."""


def checked_post(values: Mapping[str, Any], column: str, max_characters: int) -> str:
    """A post's text as it is.

    Raises:
        BadRowError: It is missing, not UTF-8, holds a NUL, is empty or too long.
    """
    value = values.get(column)
    if value is None:
        raise BadRowError(f"{column} is missing")
    if not isinstance(value, str):
        raise BadRowError(f"{column} is no text")
    _check_characters(value, column)
    if len(value) > max_characters:
        raise BadRowError(f"{column} has {len(value)} characters, the limit is {max_characters}")
    if not any(_is_visible(character) for character in value):
        raise BadRowError(f"{column} is empty")
    return value


def checked_id(values: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    """The identifier in the first of these columns that has one, or None.

    Raises:
        BadRowError: It is neither text nor a number, not UTF-8, or holds a NUL.
    """
    for column in columns:
        value = values.get(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None and not isinstance(value, str):
            raise BadRowError(f"{column} is neither text nor a number")
        if value is not None and value.strip():
            _check_characters(value, column)
            return value.strip()
    return None


def seeker_hash(seeker_post: str) -> str:
    """A stable identifier of a seeker's post; white space makes no difference."""
    return f"s-{_digest(seeker_post)}"


def response_hash(seeker_post: str, response_post: str) -> str:
    """A stable identifier of a response to a seeker's post; white space makes no difference."""
    return f"r-{_digest(seeker_post, response_post)}"


def checked_level(value: Any, column: str) -> int:
    """A level as a number.

    Raises:
        BadRowError: It is not 0, 1 or 2.
    """
    level = None if isinstance(value, bool) else _LEVELS.get(str(value).strip())
    if level is None:
        raise BadRowError(f"{column} is not 0, 1 or 2")
    return level


def checked_rationales(value: Any, column: str) -> tuple[str, ...]:
    """Rationales as given: a list, or one text that separates them by `|`; empty ones left out.

    Raises:
        BadRowError: They are something else, not UTF-8, or hold a NUL.
    """
    parts = value.split("|") if isinstance(value, str) else value
    if parts is None:
        return ()
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise BadRowError(f"{column} is no list of texts")
    for part in parts:
        _check_characters(part, column)
    return tuple(part for part in parts if part.strip())


def locate(rationale: str, response: str) -> str | None:
    """The exact substring of the response that a rationale means, or None.

    Differences in white space and in HTML's escapes (`&amp;`) are bridged: annotators saw the text without them.
    """
    if rationale.strip() in response:
        return rationale.strip()
    wanted = _flatten(rationale)[0].strip()
    flat, spans = _flatten(response)
    start = flat.find(wanted) if wanted else -1
    return None if start < 0 else response[spans[start][0] : spans[start + len(wanted) - 1][1]]


def make_label(level: int, rationales: tuple[str, ...], response: str) -> tuple[MechanismLabel, list[str]]:
    """A mechanism's label, whose rationales are exact substrings of the response, and remarks on those left out."""
    if level == 0:
        return MechanismLabel(0), [LEVEL_ZERO_RATIONALE] if rationales else []
    located = [locate(rationale, response) for rationale in rationales]
    kept = tuple(dict.fromkeys(text for text in located if text is not None))
    return MechanismLabel(level, kept), [DROPPED_RATIONALE for text in located if text is None]


def parse_pair(values: Mapping[str, Any], max_characters: int) -> tuple[Example, list[str]]:
    """A pair with ids and, where all three levels are given, labels; and remarks on what was left out.

    Columns: `seeker_post`, `response_post`; optionally `seeker_id` (`sp_id`), `response_id` (`rp_id`) and per
    mechanism `<mechanism>_level` and `<mechanism>_rationales`.

    Raises:
        BadRowError: The row cannot be used.
    """
    seeker = checked_post(values, "seeker_post", max_characters)
    response = checked_post(values, "response_post", max_characters)
    labels, remarks = _parse_labels(values, response)
    example = Example(
        seeker_id=checked_id(values, ("seeker_id", "sp_id")) or seeker_hash(seeker),
        response_id=checked_id(values, ("response_id", "rp_id")) or response_hash(seeker, response),
        seeker_post=seeker,
        response_post=response,
        labels=labels,
    )
    return example, remarks


def _parse_labels(
    values: Mapping[str, Any], response: str
) -> tuple[tuple[MechanismLabel, MechanismLabel, MechanismLabel] | None, list[str]]:
    given = [values.get(level_column(mechanism)) not in (None, "") for mechanism in MECHANISMS]
    if not any(given):
        return None, []
    labels, remarks = [], []
    for mechanism in MECHANISMS:
        level = checked_level(values.get(level_column(mechanism)), level_column(mechanism))
        column = rationales_column(mechanism)
        label, more = make_label(level, checked_rationales(values.get(column), column), response)
        labels.append(label)
        remarks.extend(more)
    first, second, third = labels
    return (first, second, third), remarks


def _check_characters(value: str, column: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRowError(f"{column} is not UTF-8") from None
    if "\0" in value:
        raise BadRowError(f"{column} holds a NUL")


def _is_visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf")


def _digest(*texts: str) -> str:
    content = "\0".join(" ".join(text.split()) for text in texts)
    return hashlib.blake2b(content.encode("utf-8"), digest_size=_ID_DIGEST_BYTES).hexdigest()


def _flatten(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text with each run of white space as one space and escapes resolved; and each character's origin."""
    characters: list[str] = []
    spans: list[tuple[int, int]] = []
    for piece in _PIECE.finditer(text):
        plain = " " if piece.group().isspace() else html.unescape(piece.group()).replace("\xa0", " ")
        characters.append(plain)
        spans.append(piece.span())
    return "".join(characters), spans
