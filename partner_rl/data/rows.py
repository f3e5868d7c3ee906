"""One raw record → one checked pair, or the reason why not."""

from __future__ import annotations

import hashlib
import html
import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from partner_rl.data.columns import (
    LEVEL,
    RESPONSE_IDS,
    RESPONSE_POST,
    SEEKER_IDS,
    SEEKER_POST,
    level_column,
    rationales_column,
)
from partner_rl.types import MAX_LEVEL, MECHANISMS, Example, MechanismLabel

DROPPED_RATIONALE: Final = "rationale left out: not part of the response"
"""Remark on a row with a rationale that the response does not hold."""

LEVEL_ZERO_RATIONALE: Final = "rationales left out: the level is 0"
"""Remark on a row with rationales for a mechanism of level 0."""

PARTLY_LABELLED: Final = "levels left out: a pair needs those of all three mechanisms"
"""Remark on a row that has a level for some mechanisms only."""

ONE_MECHANISM: Final = (
    "levels left out: one mechanism alone does not make a label; read the folder with all three files"
)
"""Remark on rows that label one mechanism only, as a single file in the EPITOME layout."""

_LEVEL_COLUMNS: Final = tuple(map(level_column, MECHANISMS))
_RATIONALES_COLUMNS: Final = tuple(map(rationales_column, MECHANISMS))

_NO_VALUE: Final = frozenset(("", "nan", "none", "null", "na", "n/a", "<na>"))
"""How a table writes that it has no value, in small letters; posts may say so."""

_WHOLE: Final = re.compile(r"([+-]?[0-9]{1,40})(?:\.0*)?")
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
    if not isinstance(value, str):
        if value is None or is_nan(value):
            raise BadRowError(f"{column} is missing")
        raise BadRowError(f"{column} is no text")
    _check_characters(value, column)
    if len(value) > max_characters:
        raise BadRowError(f"{column} has {len(value)} characters, the limit is {max_characters}")
    if not any(map(_is_visible, value)):
        raise BadRowError(f"{column} is empty")
    return value


def checked_id(values: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    """The identifier in the first of these columns that has one, or None.

    A whole number is the same identifier whether a table holds it as a number, as text, or as pandas writes numbers of
    a column in which some are missing ("7.0").

    Raises:
        BadRowError: It is neither text nor a number, not UTF-8, or holds a NUL.
    """
    for column in columns:
        value = values.get(column)
        if value is None or is_blank(value):
            continue
        if isinstance(value, str):
            _check_characters(value, column)
            whole = _WHOLE.fullmatch(value.strip()) if "." in value else None
            return whole[1] if whole else value.strip()
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise BadRowError(f"{column} is neither text nor a number")
        whole_value = whole_number(value)
        return str(value if whole_value is None else whole_value)
    return None


def is_blank(value: Any) -> bool:
    """Whether a table has no value here: null, a number that is none, or text that says so."""
    if isinstance(value, str):
        return value.strip().lower() in _NO_VALUE
    return value is None or is_nan(value)


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
    level = whole_number(value)
    if level is None or not 0 <= level <= MAX_LEVEL:
        raise BadRowError(f"{column} is not 0, 1 or 2")
    return level


def checked_rationales(value: Any, column: str) -> tuple[str, ...]:
    """Rationales as given: a list, or one text that separates them by `|`; empty ones left out.

    Raises:
        BadRowError: They are something else, not UTF-8, or hold a NUL.
    """
    if is_blank(value):
        return ()
    parts = value.split("|") if isinstance(value, str) else value
    parts = [part for part in parts if part is not None] if isinstance(parts, list) else None
    if parts is None or not all(isinstance(part, str) for part in parts):
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

    Pairs without ids get hashes of their texts.

    `values` is a row by the names of `columns.PAIR_COLUMNS`; a post of more than `max_characters` is rejected.

    Raises:
        BadRowError: The row cannot be used.
    """
    seeker = checked_post(values, SEEKER_POST, max_characters)
    response = checked_post(values, RESPONSE_POST, max_characters)
    labels, remarks = _parse_labels(values, response)
    example = Example(
        seeker_id=checked_id(values, SEEKER_IDS) or seeker_hash(seeker),
        response_id=checked_id(values, RESPONSE_IDS) or response_hash(seeker, response),
        seeker_post=seeker,
        response_post=response,
        labels=labels,
    )
    return example, remarks


def _parse_labels(
    values: Mapping[str, Any], response: str
) -> tuple[tuple[MechanismLabel, MechanismLabel, MechanismLabel] | None, list[str]]:
    given = {column: values[column] for column in _LEVEL_COLUMNS if values.get(column) is not None}
    levels = [checked_level(value, column) for column, value in given.items() if not is_blank(value)]
    if not levels:
        return None, _remark_on_one_mechanism(values)
    if len(levels) < len(MECHANISMS):
        return None, [PARTLY_LABELLED]
    labels, remarks = [], []
    for column, level in zip(_RATIONALES_COLUMNS, levels, strict=True):
        label, more = make_label(level, checked_rationales(values.get(column), column), response)
        labels.append(label)
        remarks.extend(more)
    first, second, third = labels
    return (first, second, third), remarks


def _remark_on_one_mechanism(values: Mapping[str, Any]) -> list[str]:
    # Anything else in a column of this common name is none of ours.
    return [ONE_MECHANISM] if whole_number(values.get(LEVEL)) in range(MAX_LEVEL + 1) else []


def whole_number(value: Any) -> int | None:
    """The integer that a number, or a text that writes one, equals; None where there is none."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, float | Decimal):
        return int(value) if math.isfinite(value) and value == int(value) else None
    match = _WHOLE.fullmatch(value.strip()) if isinstance(value, str) else None
    return int(match[1]) if match else None


def is_nan(value: Any) -> bool:
    """Whether a value is the number that stands for a missing one."""
    return isinstance(value, float | Decimal) and math.isnan(value)


def _check_characters(value: str, column: str) -> None:
    if not value.isascii():
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
