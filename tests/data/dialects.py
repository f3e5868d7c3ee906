"""One corpus in the formats and dialects that people's tools write."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.parquet as pq

from partner_rl.types import MECHANISMS

Row = dict[str, Any]
"""Column → value as plain Python has it; a value that is None is missing."""

LEVELS = tuple(f"{mechanism}_level" for mechanism in MECHANISMS)
RATIONALES = tuple(f"{mechanism}_rationales" for mechanism in MECHANISMS)
COLUMNS = ("seeker_id", "response_id", "seeker_post", "response_post", *LEVELS, *RATIONALES)

STRINGS = pa.list_(pa.string())
ListOf = Callable[[pa.DataType], pa.DataType]


def delimited(rows: Sequence[Row], columns: Sequence[str] = COLUMNS, **dialect: Any) -> str:
    """The rows as Python's writer writes them."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, **dialect)
    writer.writerow(columns)
    writer.writerows([[_flat(row.get(name)) for name in columns] for row in rows])
    return file.getvalue()


def _flat(value: Any) -> Any:
    return "|".join(value) if isinstance(value, list) else value


def arrow(rows: Sequence[Row], text: pa.DataType, number: pa.DataType, list_of: ListOf = pa.list_) -> pa.Table:
    """The rows as a table with these types."""
    arrays = {}
    for name in COLUMNS:
        kind = number if name in LEVELS else list_of(text) if name in RATIONALES else text
        values = [row.get(name) for row in rows]
        if name in LEVELS and kind == pa.string():
            values = [None if value is None else str(value) for value in values]
        encode = pa.types.is_dictionary(kind)
        array = pa.array(values, kind.value_type if encode else kind)
        arrays[name] = array.dictionary_encode() if encode else array
    return pa.table(arrays)


def with_extras(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The rows with columns that mean nothing, and all columns in another order and spelling."""
    renamed = {name: name.replace("_", "-").title() for name in COLUMNS}
    made = [{renamed[name]: value for name, value in row.items()} | {"score": 3, "Unnamed: 0": None} for row in rows]
    columns = [*renamed.values(), "score", "Unnamed: 0"]
    random.Random(len(rows)).shuffle(columns)
    return made, columns


def as_pandas(rows: Sequence[Row]) -> pandas.DataFrame:
    """The rows as a data frame, in which numbers of columns with gaps are floats."""
    return pandas.DataFrame([{name: _flat(row.get(name)) for name in COLUMNS} for row in rows], columns=list(COLUMNS))


def write(rows: Sequence[Row], dialect: str, folder: Path) -> Path:
    """Write the rows in a dialect, and say where."""
    folder.mkdir(parents=True, exist_ok=True)
    return DIALECTS[dialect](rows, folder)


def _text(name: str, encoding: str = "utf-8", **dialect: Any) -> Callable[[Sequence[Row], Path], Path]:
    def writer(rows: Sequence[Row], folder: Path) -> Path:
        (folder / name).write_bytes(delimited(rows, **dialect).encode(encoding))
        return folder / name

    return writer


def _with_separator_line(rows: Sequence[Row], folder: Path) -> Path:
    (folder / "pairs.csv").write_bytes(f"sep=;\r\n{delimited(rows, delimiter=';')}".encode())
    return folder / "pairs.csv"


def _extras_csv(rows: Sequence[Row], folder: Path) -> Path:
    made, columns = with_extras(rows)
    (folder / "pairs.csv").write_bytes(delimited(made, columns).encode())
    return folder / "pairs.csv"


def _extras_parquet(rows: Sequence[Row], folder: Path) -> Path:
    made, columns = with_extras(rows)
    table = pa.Table.from_pylist(made) if made else pa.table({})
    pq.write_table(table.select([name for name in columns if name in table.column_names]), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def _jsonl(rows: Sequence[Row], folder: Path) -> Path:
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "pairs.jsonl"


def _jsonl_of_pandas(rows: Sequence[Row], folder: Path) -> Path:
    """With NaN for what is missing, as some tools write it, levels as floats, and rationales as one text."""
    made = [
        {name: float(value) if name in LEVELS and value is not None else _flat(value) for name, value in row.items()}
        for row in rows
    ]
    lines = [json.dumps({name: float("nan") if row[name] is None else row[name] for name in row}) for row in made]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    return folder / "pairs.jsonl"


def _parquet(
    text: pa.DataType, number: pa.DataType, list_of: ListOf = pa.list_
) -> Callable[[Sequence[Row], Path], Path]:
    def writer(rows: Sequence[Row], folder: Path) -> Path:
        pq.write_table(arrow(rows, text, number, list_of), folder / "pairs.parquet", row_group_size=2)
        return folder / "pairs.parquet"

    return writer


def _pandas_parquet(rows: Sequence[Row], folder: Path) -> Path:
    as_pandas(rows).to_parquet(folder / "pairs.parquet")
    return folder / "pairs.parquet"


def _pandas_tsv(rows: Sequence[Row], folder: Path) -> Path:
    as_pandas(rows).to_csv(folder / "pairs.tsv", sep="\t")
    return folder / "pairs.tsv"


def _pandas_csv(rows: Sequence[Row], folder: Path) -> Path:
    posts = {"seeker_post": "", "response_post": ""}
    as_pandas(rows).fillna(posts).to_csv(folder / "pairs.csv", na_rep="NaN", quoting=csv.QUOTE_NONNUMERIC)
    return folder / "pairs.csv"


def _folder(inner: str) -> Callable[[Sequence[Row], Path], Path]:
    """Parts in files of their own, beside what is no part."""

    def writer(rows: Sequence[Row], folder: Path) -> Path:
        middle = len(rows) // 2
        for number, part in enumerate((rows[:middle], rows[middle:])):
            path = DIALECTS[inner](part, folder)
            path.rename(folder / f"part-{number}{path.suffix}")
        (folder / "_SUCCESS").touch()
        (folder / f".part-0{path.suffix}.crc").write_bytes(b"1")
        (folder / "pairs.rejects.jsonl").write_text('{"line": 1}\n')
        (folder / "notes.txt").write_text("notes")
        return folder

    return writer


DIALECTS: dict[str, Callable[[Sequence[Row], Path], Path]] = {
    "csv": _text("pairs.csv", lineterminator="\n"),
    "csv, CRLF": _text("pairs.csv"),
    "csv, byte order mark": _text("pairs.csv", "utf-8-sig"),
    "csv, UTF-16": _text("pairs.csv", "utf-16"),
    "csv, UTF-32": _text("pairs.csv", "utf-32"),
    "csv, all quoted": _text("pairs.csv", quoting=csv.QUOTE_ALL),
    "csv, semicolons": _text("pairs.csv", delimiter=";"),
    "csv, separator line": _with_separator_line,
    "csv, tabs": _text("pairs.csv", delimiter="\t"),
    "csv, bars": _text("PAIRS.CSV", delimiter="|"),
    "csv, more columns in another order": _extras_csv,
    "csv, pandas with NaN": _pandas_csv,
    "tsv": _text("pairs.tsv", delimiter="\t", lineterminator="\n"),
    "tsv, all quoted": _text("pairs.tsv", "utf-8-sig", delimiter="\t", quoting=csv.QUOTE_ALL),
    "tsv, UTF-16": _text("pairs.tsv", "utf-16", delimiter="\t"),
    "tsv, pandas": _pandas_tsv,
    "jsonl": _jsonl,
    "jsonl, NaN": _jsonl_of_pandas,
    "parquet": _parquet(pa.string(), pa.int8()),
    "parquet, pandas": _pandas_parquet,
    "parquet, large_string": _parquet(pa.large_string(), pa.int64(), pa.large_list),
    "parquet, string_view": _parquet(pa.string_view(), pa.uint8(), pa.list_view),
    "parquet, dictionary": _parquet(pa.dictionary(pa.int32(), pa.string()), pa.float64(), lambda _: STRINGS),
    "parquet, binary": _parquet(pa.binary(), pa.float16()),
    "parquet, levels as text": _parquet(pa.string(), pa.string()),
    "parquet, levels as decimals": _parquet(pa.string(), pa.decimal128(5, 2)),
    "parquet, more columns in another order": _extras_parquet,
}
"""Name → writer."""

DIALECTS |= {f"folder of {name}": _folder(name) for name in ("csv", "jsonl", "parquet", "tsv")}
