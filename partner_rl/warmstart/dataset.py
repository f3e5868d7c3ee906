"""Warm-start examples as Parquet: what `partner-rl data warmstart-pairs` writes and the warm start reads.

One row an example. Position numbers depend on the window's size, so every row says which one it was made for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.data.folders import data_files
from partner_rl.data.parquet import READ_ERRORS, damaged, parquet_records
from partner_rl.data.rows import BadRowError, checked_id, whole_number
from partner_rl.positions import PositionKind, decode_position, num_positions, position_mask
from partner_rl.types import EditAction, PartnerError, RewriteState
from partner_rl.warmstart.pairs import Draft, WarmStartExample

EXAMPLE_SCHEMA: Final = pa.schema(
    [
        pa.field("seeker_post", pa.string(), nullable=False),
        pa.field("span", pa.list_(pa.string()), nullable=False),
        pa.field("window", pa.int16(), nullable=False),
        pa.field("position", pa.int16(), nullable=False),
        pa.field("sentence", pa.string(), nullable=False),
        pa.field("seeker_id", pa.string()),
        pa.field("response_id", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("mechanism", pa.string()),
        pa.field("level", pa.float32()),
    ]
)
"""The columns of a file of examples: what is trained on, then where it came from, which may be null."""

TRAINED_COLUMNS: Final = ("seeker_post", "span", "window", "position", "sentence")
"""The columns that a reader needs."""

HOW_TO_MAKE: Final = "`partner-rl data warmstart-pairs` makes such files"


def examples_table(rows: Sequence[Draft], window: int) -> pa.Table:
    """The examples as a table of `EXAMPLE_SCHEMA`, one row each, in order.

    Where a text of their origin is empty, the column is null.
    """
    actions, states = [row.example.action for row in rows], [row.example.state for row in rows]
    columns: dict[str, list[Any]] = {
        "seeker_post": [state.seeker_post for state in states],
        "span": [list(state.span) for state in states],
        "window": [window] * len(rows),
        "position": [action.position for action in actions],
        "sentence": [action.sentence for action in actions],
        "seeker_id": [row.seeker_id or None for row in rows],
        "response_id": [row.response_id or None for row in rows],
        "kind": [str(decode_position(action.position, window).kind) for action in actions],
        "mechanism": [row.mechanism or None for row in rows],
        "level": [row.level if row.mechanism else None for row in rows],
    }
    return pa.Table.from_pydict(columns, schema=EXAMPLE_SCHEMA)


def iter_warmstart_examples(source: Path, window: int | None = None) -> Iterator[tuple[str, WarmStartExample]]:
    """The examples of a Parquet file, or of a folder's Parquet files in the order of their names.

    Each comes after its seeker's id, which decides the split; the seeker's post where the file does not know the id.

    `window` is the `k` of the task to train for; None takes that of the first example.

    Raises:
        PartnerError: The source is missing, empty, truncated or no file of examples; a row holds no possible edit; or
            the examples were made for another window. The columns of every file are checked at the first row.
    """
    paths = _files(source)
    for path in paths:
        _check_columns(path)
    empty = True
    for path in paths:
        for record in parquet_records(path, partial(_header, path)):
            empty = False
            where = f"{path} row {record.line}"
            row = _read_row(record.values, where)
            window = row.window if window is None else window
            yield row.seeker, _checked(row, window, where, path)
    if empty:
        raise PartnerError(f"{source} holds no examples: make some from a larger corpus; {HOW_TO_MAKE}")


@dataclass(frozen=True, slots=True)
class _ExampleRow:
    """One row as read, nothing checked but that its values are there; its seeker as the pairs' readers name them."""

    seeker: str
    window: int
    example: WarmStartExample


def _files(source: Path) -> tuple[Path, ...]:
    if source.is_file():
        return (source,)
    if not source.is_dir():
        raise PartnerError(f"no warm-start examples at {source}: {HOW_TO_MAKE}")
    paths = data_files(source, (".parquet",))
    if not paths:
        raise PartnerError(f"no Parquet file in {source}: {HOW_TO_MAKE}")
    return paths


def _check_columns(path: Path) -> None:
    try:
        found = pq.read_schema(path).names
    except READ_ERRORS as error:
        raise damaged(path, error) from error
    _header(path, found)


def _header(path: Path, found: Sequence[str]) -> list[str]:
    """The columns to read, as `parquet_records` wants them named."""
    missing = [name for name in TRAINED_COLUMNS if name not in found]
    if missing:
        lacks = f"it lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        raise PartnerError(f"{path} is no file of warm-start examples: {lacks}; {HOW_TO_MAKE}")
    if len(set(found)) != len(found):
        raise PartnerError(f"{path} names a column twice; {HOW_TO_MAKE}")
    return [name if name in (*TRAINED_COLUMNS, "seeker_id") else "" for name in found]


def _read_row(values: Mapping[str, Any], where: str) -> _ExampleRow:
    span = values.get("span")
    if any(values.get(name) is None for name in TRAINED_COLUMNS) or (isinstance(span, list) and None in span):
        raise PartnerError(f"{where} has an empty field; {HOW_TO_MAKE}")
    window, position = (whole_number(values[name]) for name in ("window", "position"))
    if window is None or position is None:
        raise PartnerError(f"{where}: window and position are no whole numbers; {HOW_TO_MAKE}")
    texts = [values["seeker_post"], values["sentence"], *(span if isinstance(span, list) else [None])]
    if not all(isinstance(text, str) and _is_utf8(text) for text in texts):
        raise PartnerError(f"{where}: seeker_post, sentence and span are no texts in UTF-8; {HOW_TO_MAKE}")
    seeker_post, sentence, *sentences = texts
    example = WarmStartExample(RewriteState(seeker_post, tuple(sentences)), EditAction(position, sentence))
    try:
        seeker_id = checked_id(values, ("seeker_id",))
    except BadRowError as error:
        raise PartnerError(f"{where}: {error}; {HOW_TO_MAKE}") from error
    return _ExampleRow(seeker_id or seeker_post, window, example)


def _checked(row: _ExampleRow, window: int, where: str, path: Path) -> WarmStartExample:
    if row.window != window:
        raise PartnerError(
            f"{path} was made for windows of {row.window} sentences, not {window}: "
            "set env.window to that, or make the examples again with --window"
        )
    action, span = row.example.action, row.example.state.span
    if not 0 <= action.position < num_positions(window) or len(span) > window:
        raise PartnerError(f"{where}: there is no position {action.position} in a window of {window} sentences")
    if not position_mask(len(span), window)[action.position]:
        raise PartnerError(f"{where}: position {action.position} lies beyond the window's {len(span)} sentences")
    if not action.sentence.strip() and decode_position(action.position, window).kind is not PositionKind.NOOP:
        raise PartnerError(f"{where}: an edit without a sentence; {HOW_TO_MAKE}")
    return row.example


def _is_utf8(text: str) -> bool:
    return text.encode("utf-8", "replace").decode() == text
