"""Pairs survive Parquet unchanged, and files that are not ours are refused."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partner_rl.data.pair_schema import PAIR_SCHEMA, batch_from_examples, write_parquet
from partner_rl.data.parquet import BATCH_ROWS
from partner_rl.data.readers import iter_rows
from partner_rl.types import Example, MechanismLabel, PartnerError

TEXTS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=40)
LABELS = st.builds(MechanismLabel, st.integers(0, 2), st.lists(TEXTS, max_size=3).map(tuple))
EXAMPLES = st.builds(Example, TEXTS, TEXTS, TEXTS, TEXTS, st.none() | st.tuples(LABELS, LABELS, LABELS))


def example(number: int) -> Example:
    return Example(f"s{number}", f"r{number}", f"Seeker {number}", f"Response {number}")


def read(path) -> list[Example]:
    return [row for row in iter_rows(str(path)) if isinstance(row, Example)]


@given(examples=st.lists(EXAMPLES, max_size=8))
@settings(max_examples=40, deadline=None)
def test_what_was_read_once_survives_writing_and_reading(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    assert write_parquet(iter(examples), folder / "any.parquet") == len(examples)
    usable = read(folder / "any.parquet")
    assert write_parquet(iter(usable), folder / "usable.parquet") == len(usable)
    rows = list(iter_rows(str(folder / "usable.parquet")))
    assert rows == usable
    assert batch_from_examples(usable).schema == PAIR_SCHEMA


def test_many_batches_are_streamed_in_order_with_progress(tmp_path):
    examples = [example(number) for number in range(2 * BATCH_ROWS + 7)]
    path = tmp_path / "folder" / "pairs.parquet"
    write_parquet(examples, path)
    calls: list[tuple[int, int]] = []
    assert list(iter_rows(str(path), progress=lambda done, total: calls.append((done, total)))) == examples
    assert calls[-1] == (len(examples), len(examples))
    assert len(calls) == 3


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "pairs.parquet"
    write_parquet([example(1)], path)

    def failing():
        yield example(2)
        raise PartnerError("stopped")

    with pytest.raises(PartnerError, match="stopped"):
        write_parquet(failing(), path)
    assert read(path) == [example(1)]
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PartnerError, match="cannot write"):
        write_parquet([example(1)], tmp_path / "file" / "pairs.parquet")


def test_missing_truncated_and_foreign_files(tmp_path):
    path = tmp_path / "pairs.parquet"
    with pytest.raises(PartnerError, match="no data at"):
        read(path)
    write_parquet([example(number) for number in range(100)], path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(PartnerError, match="truncated or no Parquet file"):
        read(path)
    path.write_text("something else")
    with pytest.raises(PartnerError, match="truncated or no Parquet file"):
        read(path)


def test_columns_in_another_order_and_more_of_them_are_fine(tmp_path):
    path = tmp_path / "pairs.parquet"
    table = pa.Table.from_batches([batch_from_examples([example(1)])])
    table = table.append_column("subreddit", pa.array(["help"])).select([*reversed(PAIR_SCHEMA.names), "subreddit"])
    pq.write_table(table, path)
    assert read(path) == [example(1)]
