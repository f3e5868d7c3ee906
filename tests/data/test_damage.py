"""Whatever bytes a file holds, reading it ends in rows, rejected rows or one line, never in another error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partner_rl.data.readers import iter_rows
from partner_rl.data.records import Reject
from partner_rl.types import PartnerError
from tests.data.dialects import DIALECTS, LEVELS, RATIONALES, Row, write

pytestmark = pytest.mark.reported

SECRET = "xylophone"
POSTS: Row = {"seeker_post": f'I lost my "{SECRET}",\nagain.', "response_post": "Oh\tno!"}
ROWS: list[Row] = [
    {"seeker_id": f"u{level}", "response_id": None, **POSTS, **dict.fromkeys(LEVELS, level)}
    | {name: ["Oh"] for name in RATIONALES}
    for level in range(3)
]
CUTS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4)


def lines_about(path: Path) -> list[str]:
    """What a user may be shown about a file: the error, or why rows are rejected."""
    try:
        return [row.reason for row in iter_rows(str(path)) if isinstance(row, Reject)]
    except PartnerError as error:
        return [str(error)]


def check(path: Path) -> None:
    for line in lines_about(path):
        assert "\n" not in line
        assert SECRET not in line


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if not name.startswith("folder")])
@given(cuts=CUTS)
@settings(max_examples=8, deadline=None)
def test_a_damaged_file(cuts: list[tuple[int, int, bytes]], dialect: str, tmp_path_factory: pytest.TempPathFactory):
    path = write(ROWS, dialect, tmp_path_factory.mktemp("damaged"))
    content = path.read_bytes()
    for at, length, new in cuts:
        place = at % (len(content) + 1)
        content = content[:place] + new + content[place + length :]
    path.write_bytes(content)
    check(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
@given(content=st.binary(max_size=60) | st.text('",;\t|\n\r\\ab0{}[]:', max_size=60).map(str.encode))
@settings(max_examples=60, deadline=None)
def test_any_bytes(content: bytes, name: str, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)
    check(path)
