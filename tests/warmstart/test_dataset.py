"""Warm-start examples survive Parquet, and files that cannot be trained on are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partner_rl.data.parquet import write_tables
from partner_rl.positions import num_positions, position_mask
from partner_rl.types import EditAction, PartnerError, RewriteState
from partner_rl.warmstart.dataset import (
    EXAMPLE_SCHEMA,
    examples_table,
    iter_warmstart_examples,
)
from partner_rl.warmstart.pairs import Draft, WarmStartExample
from tests.helpers.artefacts import read_warmstart_examples

WINDOW = 3
TEXTS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)


@st.composite
def any_example(draw: st.DrawFn) -> WarmStartExample:
    span = tuple(draw(st.lists(TEXTS, max_size=WINDOW)))
    mask = position_mask(len(span), WINDOW)
    position = draw(st.sampled_from([number for number in range(num_positions(WINDOW)) if mask[number]]))
    return WarmStartExample(RewriteState(draw(TEXTS), span), EditAction(position, f"I hear you. {draw(TEXTS)}"))


def example(position: int = 0, sentence: str = "I hear you.", span: tuple[str, ...] = ("One.", "Two.")) -> pa.Table:
    made = WarmStartExample(RewriteState("Nobody calls me.", span), EditAction(position, sentence))
    return examples_table([Draft(made, "s", "r", "interpretations", 1.5)], WINDOW)


@given(st.lists(any_example(), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_files_are_lossless(tmp_path_factory: pytest.TempPathFactory, examples: list[WarmStartExample]) -> None:
    path = tmp_path_factory.mktemp("examples") / "part.parquet"
    table = examples_table([Draft(one, "s", "r") for one in examples], WINDOW)
    assert write_tables(path, EXAMPLE_SCHEMA, [table]) == len(examples)
    assert read_warmstart_examples(path, WINDOW) == examples


def test_a_folder_is_read_in_the_order_of_names_without_unfinished_files(tmp_path: Path) -> None:
    for name, sentence in (("b", "Second."), ("a", "First."), (".c", "Unfinished."), ("_d", "Work.")):
        write_tables(tmp_path / f"{name}.parquet", EXAMPLE_SCHEMA, [example(sentence=sentence)])
    assert [one.action.sentence for one in read_warmstart_examples(tmp_path)] == ["First.", "Second."]


def test_provenance_is_optional(tmp_path: Path) -> None:
    path = tmp_path / "bare.parquet"
    pq.write_table(example().select(["sentence", "position", "window", "span", "seeker_post"]), path)
    assert len(read_warmstart_examples(path)) == 1


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> object:
        yield example()
        raise PartnerError("stopped")

    with pytest.raises(PartnerError, match="stopped"):
        write_tables(tmp_path / "part.parquet", EXAMPLE_SCHEMA, failing())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (example(position=3), r"row 1: position 3 lies beyond the window's 2 sentences"),
        (example(position=7, span=("a",) * 4), r"row 1: there is no position 7 in a window of 3 sentences"),
        (example(sentence=" "), "an edit without a sentence"),
        (example(span=(None,)), "an empty field"),  # type: ignore[arg-type]
        (example().drop_columns(["span"]), "lacks the column span"),
        (example().set_column(3, "position", pa.array(["first"])), "row 1: window and position are no whole numbers"),
        (EXAMPLE_SCHEMA.empty_table(), "holds no examples"),
    ],
)
def test_files_that_cannot_be_trained_on(tmp_path: Path, table: pa.Table, message: str) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(table, path)
    with pytest.raises(PartnerError, match=message) as caught:
        read_warmstart_examples(path)
    assert "\n" not in str(caught.value)
    assert "part.parquet" in str(caught.value)


def test_examples_of_another_window(tmp_path: Path) -> None:
    write_tables(tmp_path / "part.parquet", EXAMPLE_SCHEMA, [example()])
    with pytest.raises(PartnerError, match=r"windows of 3 sentences, not 4: set env\.window"):
        read_warmstart_examples(tmp_path, window=4)
    wider = example().set_column(2, EXAMPLE_SCHEMA.field("window"), pa.array([4], pa.int16()))
    write_tables(tmp_path / "wider.parquet", EXAMPLE_SCHEMA, [wider])
    with pytest.raises(PartnerError, match=r"wider.parquet was made for windows of 4 sentences, not 3"):
        read_warmstart_examples(tmp_path)


def test_missing_truncated_and_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(PartnerError, match="no warm-start examples at"):
        read_warmstart_examples(tmp_path / "nowhere")
    with pytest.raises(PartnerError, match="no Parquet file in"):
        read_warmstart_examples(tmp_path)
    path = tmp_path / "part.parquet"
    write_tables(path, EXAMPLE_SCHEMA, [example()])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PartnerError, match="truncated"):
        read_warmstart_examples(path)


def test_each_example_comes_with_what_decides_its_split(tmp_path: Path):
    example = WarmStartExample(RewriteState("A post.", ("One.",)), EditAction(0, "A sentence."))
    drafts = [Draft(example, "seeker 7", "r"), Draft(example, "", "")]
    write_tables(tmp_path / "a.parquet", EXAMPLE_SCHEMA, [examples_table(drafts, 4)])
    assert [seeker for seeker, _ in iter_warmstart_examples(tmp_path)] == ["seeker 7", "A post."]


@pytest.mark.reported
def test_examples_of_another_writer_are_read(tmp_path: Path) -> None:
    table = example()
    other = pa.table(
        {
            "sentence": table["sentence"].cast(pa.large_string()),
            "span": table["span"].cast(pa.large_list(pa.large_string())),
            "position": table["position"].cast(pa.float64()),
            "window": table["window"].cast(pa.int64()),
            "seeker_post": table["seeker_post"].combine_chunks().dictionary_encode(),
            "seeker_id": [7.0],
        }
    )
    path = tmp_path / "part.parquet"
    pq.write_table(other, path)
    write_tables(tmp_path / "own.parquet", EXAMPLE_SCHEMA, [table])
    assert read_warmstart_examples(path) == read_warmstart_examples(tmp_path / "own.parquet")
    assert [seeker for seeker, _ in iter_warmstart_examples(path)] == ["7"]


@pytest.mark.reported
def test_examples_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    damaged = pa.array([b"caf\xe9"]).view(pa.string())
    pq.write_table(example().set_column(4, "sentence", damaged), path)
    with pytest.raises(PartnerError, match="row 1: seeker_post, sentence and span are no texts in UTF-8"):
        read_warmstart_examples(path)


@pytest.mark.reported
def test_an_unfinished_folder_of_examples_is_refused(tmp_path: Path) -> None:
    write_tables(tmp_path / "part.parquet", EXAMPLE_SCHEMA, [example()])
    (tmp_path / "_candidates" / "_done").mkdir(parents=True)
    with pytest.raises(PartnerError, match="is unfinished: run the command that makes it again"):
        read_warmstart_examples(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    assert len(read_warmstart_examples(tmp_path)) == 1
