"""The columns of a table of pairs, whatever its format and however its header spells them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from partner_rl.types import MECHANISMS, PartnerError

SEEKER_POST: Final = "seeker_post"
"""Column of the seeker's post."""

RESPONSE_POST: Final = "response_post"
"""Column of the response."""

POSTS: Final = (SEEKER_POST, RESPONSE_POST)
"""Columns that every table of pairs has."""

SEEKER_IDS: Final = ("seeker_id", "sp_id")
"""Columns of the seeker's id, the EPITOME layout's name last."""

RESPONSE_IDS: Final = ("response_id", "rp_id")
"""Columns of the response's id, the EPITOME layout's name last."""

LEVEL: Final = "level"
"""Column of the one mechanism that a file in the EPITOME layout labels."""

REWRITTEN: Final = "rewritten_response"
"""Column of a rewriting of the response; rows without a value have none."""


def level_column(mechanism: str) -> str:
    """Name of the column that holds a mechanism's level."""
    return f"{mechanism}_level"


def rationales_column(mechanism: str) -> str:
    """Name of the column that holds a mechanism's rationales."""
    return f"{mechanism}_rationales"


PAIR_COLUMNS: Final = frozenset(
    (
        *POSTS,
        *SEEKER_IDS,
        *RESPONSE_IDS,
        LEVEL,
        REWRITTEN,
        *map(level_column, MECHANISMS),
        *map(rationales_column, MECHANISMS),
    )
)
"""The columns that are read; others are ignored."""


_INVISIBLE: Final = " \t\r\n\xa0\ufeff"
"""What stands around names in files that were saved or copied twice: white space, byte order marks."""


@cache
def pair_column(found: str) -> str:
    """Our name for a column of a table of pairs; empty for one that is not read."""
    name = found.strip(_INVISIBLE).lower().replace("-", "_").replace(" ", "_")
    return name if name in PAIR_COLUMNS else ""


def pair_columns(found: Sequence[str], file: str) -> list[str]:
    """Our name for each column of a table of pairs; empty for those that are not read.

    Raises:
        PartnerError: The column of one of the two posts is missing, or a column that is read occurs twice.
    """
    names = [pair_column(name) for name in found]
    missing = [name for name in POSTS if name not in names]
    if missing:
        raise PartnerError(
            f"{file} lacks the columns {', '.join(missing)}: name the columns of the two posts {' and '.join(POSTS)}"
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise PartnerError(f"{file} names a column twice: {', '.join(twice)}; rename or delete one of them")
    return names
