"""One corpus, written in every format and dialect, reads as the same rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partner_rl.data.readers import iter_rows
from partner_rl.data.records import Reject, Remark
from partner_rl.types import Example
from tests.data.dialects import DIALECTS, LEVELS, RATIONALES, Row, write

pytestmark = pytest.mark.reported

PIECES = st.sampled_from(
    ["I am", " so sad", "\n", "\t", '"', ",", ";", "|", "\r\n", "'", " été", "🙂", "nan", "0", " "]
)
STARTS = st.sampled_from(["Hm.", '"Oh"', "'"])
POSTS = st.builds(lambda start, parts: start + "".join(parts), STARTS, st.lists(PIECES, max_size=5))
PAIRS = st.lists(st.tuples(POSTS, POSTS), min_size=1, max_size=6)
IDS = st.none() | st.integers(0, 10**6) | st.sampled_from(["u/joe", "007", "s,1", 's"2'])


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    """A row of any kind, usable or not; one that has a level has rationales, some of them elsewhere."""
    row: Row = {"seeker_id": draw(IDS), "response_id": draw(IDS)}
    row |= {"seeker_post": draw(POSTS), "response_post": draw(POSTS)}
    is_labelled = draw(st.booleans())
    for level, rationales in zip(LEVELS, RATIONALES, strict=True):
        row[level] = draw(st.sampled_from([0, 1, 2])) if is_labelled else None
        row[rationales] = draw(st.sampled_from([["sad"], ["so", "Hm."], None])) if row[level] is not None else None
    damage = draw(st.sampled_from(["", "", "", "level 3", "no level", "no id", "no post", "blank post"]))
    if damage == "level 3":
        row[LEVELS[1]] = 3
    elif damage == "no level":
        row[LEVELS[1]] = row[RATIONALES[1]] = None
    elif damage == "no id":
        row["seeker_id"] = None
    elif damage == "no post":
        row["response_post"] = None
    elif damage == "blank post":
        row["seeker_post"] = "  "
    # A column of one type, as tables have.
    for name in ("seeker_id", "response_id"):
        row[name] = None if row[name] is None else str(row[name])
    return row


def outcomes(source: Path) -> list[Example | str]:
    """What became of each row; a null is "missing" in one format and "empty" in another."""
    found: list[Example | str] = []
    for row in iter_rows(str(source)):
        if isinstance(row, Reject):
            found.append(row.reason.replace("is missing", "is empty"))
        elif isinstance(row, Remark):
            found.append(f"remark: {row.reason}")
        else:
            found.append(row)
    return found


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "jsonl"])
@given(rows=st.lists(any_row(), min_size=1, max_size=6))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_dialect_reads_as_the_same_rows(rows: list[Row], dialect: str, tmp_path_factory: pytest.TempPathFactory):
    expected = outcomes(write(rows, "jsonl", tmp_path_factory.mktemp("jsonl")))
    assert outcomes(write(rows, dialect, tmp_path_factory.mktemp("other"))) == expected


@given(
    rows=PAIRS,
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
@settings(max_examples=60, deadline=None)
def test_a_quoted_file_without_header_reads_as_it_was_written(rows, quoting, tmp_path_factory):
    # What holds a tab and a line break may as well be two rows without quoting.
    rows = [("I said:", 'He said "No", and left.'), *[tuple(post.replace("\t", " ") for post in row) for row in rows]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t", quoting=quoting).writerows(rows)
    path = tmp_path_factory.mktemp("quoted") / "pairs.tsv"
    path.write_bytes(file.getvalue().encode())
    assert [(row.seeker_post, row.response_post) for row in iter_rows(str(path)) if isinstance(row, Example)] == rows


@given(rows=PAIRS)
@settings(max_examples=60, deadline=None)
def test_a_file_as_partner_s_reads_as_it_stands(rows, tmp_path_factory):
    rows = [tuple(" ".join(post.split()) for post in row) for row in rows]
    rows.append(("He said", 'Then say "No" to him.'))
    path = tmp_path_factory.mktemp("bare") / "pairs.tsv"
    path.write_bytes("".join(f"{seeker}\t{response}\n" for seeker, response in rows).encode())
    assert [(row.seeker_post, row.response_post) for row in iter_rows(str(path)) if isinstance(row, Example)] == rows
