"""What is found in a file before anything is checked: raw records, with the lines on which they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One row as read, nothing checked but its shape.

    Attributes:
        line: The line on which it starts, from 1 (the row number in a Parquet file).
        values: Column → value: text in CSV and TSV files, any JSON value in JSONL files, any value in Parquet files.
    """

    line: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that cannot be used. Holds no text of any post.

    Attributes:
        line: The line on which the row starts, from 1 (the row number in a Parquet file).
    """

    line: int
    reason: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a row that was mended or left out while the pair was kept. Holds no text of any post.

    Attributes:
        reason: What was done; the same words for the same kind of remark.
    """

    line: int
    reason: str
    file: str = ""
