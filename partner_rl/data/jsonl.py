"""Files with one JSON object a line → raw records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.resources.abc import Traversable
from typing import Any

from partner_rl.data.records import Record, Reject
from partner_rl.data.text_files import open_text
from partner_rl.progress import Progress, no_progress


def jsonl_records(
    path: Traversable, column: Callable[[str], str], progress: Progress = no_progress
) -> Iterator[Record | Reject]:
    """The lines of a file with one JSON object on each.

    Args:
        path: The file.
        column: Name of a key as found → name of the column in `Record.values`; empty for one that is not read.
        progress: Called with bytes.

    Raises:
        PartnerError: The file cannot be opened, or is no text.
    """
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(file.reporting(file.text, progress), start=1):
            if line.isspace():
                continue
            try:
                # Bytes that are not UTF-8 are lone surrogates; those that JSON escapes are a matter of their column.
                line.encode("utf-8")
                content = json.loads(line)
            except UnicodeEncodeError:
                yield Reject(number, "not UTF-8", path.name)
            except (ValueError, RecursionError):
                yield Reject(number, "not JSON", path.name)
            else:
                yield _record(number, content, column, path.name)


def _record(number: int, content: Any, column: Callable[[str], str], file: str) -> Record | Reject:
    if not isinstance(content, dict):
        return Reject(number, "not a JSON object", file)
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = column(key)
        if name and name in values:
            return Reject(number, f"{name} is given twice", file)
        values[name] = value
    return Record(number, values)
