"""Records of a file of pairs that is scored row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from partner_rl.data.records import Reject
from partner_rl.data.rewrites import RewrittenPair

CHUNK_ROWS: Final = 64
"""Rows that are scored together: what bounds the memory."""


def row_records(
    rows: Iterable[RewrittenPair | Reject],
    score: Callable[[Sequence[RewrittenPair]], Iterable[Mapping[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """A JSON-able object a row, in order: its number with its ids and scores, or its line and what is wrong with it.

    Args:
        rows: The rows.
        score: What to tell of each pair, in order; an `error` says that it could not be scored.
    """
    numbered = enumerate(rows, start=1)
    while chunk := list(islice(numbered, CHUNK_ROWS)):
        scores = iter(score([row for _, row in chunk if not isinstance(row, Reject)]))
        for number, row in chunk:
            if isinstance(row, Reject):
                yield {"row": number, "line": row.line, "error": row.reason}
            else:
                ids = {"seeker_id": row.example.seeker_id, "response_id": row.example.response_id}
                yield {"row": number, "ids": ids, **next(scores)}
