"""Pairs that may come with a rewriting of the response: the input of scoring.

Every row of the source has one outcome, so that what is written about it can be matched row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from partner_rl.data.columns import REWRITTEN
from partner_rl.data.readers import epitome_source, iter_files, iter_rows, source_files
from partner_rl.data.records import Reject, Remark
from partner_rl.data.rows import checked_post, is_nan, parse_pair
from partner_rl.progress import Progress, no_progress
from partner_rl.types import Example


@dataclass(frozen=True, slots=True)
class RewrittenPair:
    """A pair and what was made of its response; None where nothing is given."""

    example: Example
    rewritten_response: str | None


def iter_rewritten(
    source: str, max_characters: int, progress: Progress = no_progress
) -> Iterator[RewrittenPair | Reject]:
    """Read a source (see `partner_rl.data.readers.iter_rows`) row by row, with the column `rewritten_response`.

    The EPITOME layout holds pairs alone.

    Raises:
        PartnerError: The source does not exist, cannot be read, or lacks columns.
    """
    if epitome_source(source) is None:
        rows = iter_files(source_files(source), _parse, max_characters, progress)
        return (row for row in rows if not isinstance(row, Remark))
    pairs = (row for row in iter_rows(source, max_characters, progress) if not isinstance(row, Remark))
    return (row if isinstance(row, Reject) else RewrittenPair(row, None) for row in pairs)


def _parse(values: Mapping[str, Any], max_characters: int) -> tuple[RewrittenPair, list[str]]:
    example, remarks = parse_pair(values, max_characters)
    rewritten = values.get(REWRITTEN)
    if rewritten in (None, "") or is_nan(rewritten):
        return RewrittenPair(example, None), remarks
    return RewrittenPair(example, checked_post(values, REWRITTEN, max_characters)), remarks
