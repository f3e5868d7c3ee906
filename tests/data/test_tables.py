"""Tables as other people's tools write them: read right, or refused in one line that says what to do."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.cli import main
from partner_rl.config.schema import DataConfig
from partner_rl.data.folders import DONE, RUN
from partner_rl.data.pair_schema import write_parquet
from partner_rl.data.readers import ReadResult, read_examples
from partner_rl.data.records import Reject
from partner_rl.data.rewrites import RewrittenPair, iter_rewritten
from partner_rl.data.rows import ONE_MECHANISM, PARTLY_LABELLED, response_hash, seeker_hash
from partner_rl.data.splits import split_examples
from partner_rl.types import MECHANISMS, Example, MechanismLabel, PartnerError
from tests.data.dialects import LEVELS, RATIONALES

pytestmark = pytest.mark.reported

SEEKER, RESPONSE = "I feel lost today.", "I am sorry. What happened?"
WITHOUT_IDS = Example(seeker_hash(SEEKER), response_hash(SEEKER, RESPONSE), SEEKER, RESPONSE)
LABELLED = (MechanismLabel(1, ("I am sorry.",)), MechanismLabel(0), MechanismLabel(2, ("What happened?",)))
FOREIGN = {
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int8(), pa.string()),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
}


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path) -> ReadResult:
    return read_examples(str(path))


def posts(path: Path) -> list[tuple[str, str]]:
    return [(example.seeker_post, example.response_post) for example in read(path).examples]


def reasons(path: Path) -> list[tuple[int, str]]:
    return [(reject.line, reject.reason) for reject in read(path).rejects]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


# Parquet


@pytest.mark.parametrize("kind", FOREIGN)
def test_two_columns_of_any_text_are_pairs(tmp_path: Path, kind: str):
    columns = {"response_post": pa.array([RESPONSE]), "seeker_post": pa.array([SEEKER])}
    cast = {name: column.cast(FOREIGN[kind]) for name, column in columns.items()}
    assert read(parquet(tmp_path / "a.parquet", **cast)) == ReadResult((WITHOUT_IDS,), (), ())


@pytest.mark.parametrize(
    "number", [pa.int8(), pa.int64(), pa.uint16(), pa.float32(), pa.float64(), pa.decimal128(30, 3)]
)
@pytest.mark.parametrize("rationales", ["list", "large_list", "text", "dictionary"])
def test_levels_are_any_whole_numbers_and_rationales_lists_or_one_text(
    tmp_path: Path, number: pa.DataType, rationales: str
):
    given = [["I am sorry."], None, ["What happened?", "not there"]]
    columns: dict[str, pa.Array] = {"seeker_post": pa.array([SEEKER]), "response_post": pa.array([RESPONSE])}
    for level, level_name, passages, name in zip((1, 0, 2), LEVELS, given, RATIONALES, strict=True):
        columns[level_name] = pa.array([level]).cast(number)
        lists = pa.array([passages], pa.list_(pa.string()))
        joined = pa.array([None if passages is None else "|".join(passages)], pa.string())
        kinds = {"list": lists, "large_list": lists.cast(pa.large_list(pa.large_string()))}
        columns[name] = (kinds | {"text": joined, "dictionary": joined.dictionary_encode()})[rationales]
    (example,) = read(parquet(tmp_path / "a.parquet", **columns)).examples
    assert example.labels == LABELLED


def test_whole_numbers_are_the_same_ids_however_they_are_written(tmp_path: Path):
    files = [
        parquet(tmp_path / "int.parquet", seeker_id=[7], seeker_post=[SEEKER], response_post=[RESPONSE]),
        parquet(tmp_path / "float.parquet", seeker_id=[7.0], seeker_post=[SEEKER], response_post=[RESPONSE]),
        text(tmp_path / "a.csv", f"seeker_id,seeker_post,response_post\n7,{SEEKER},{RESPONSE}\n"),
        text(tmp_path / "float.csv", f"sp_id,seeker_post,response_post\n7.0,{SEEKER},{RESPONSE}\n"),
        text(tmp_path / "a.tsv", f"Seeker ID\tseeker_post\tresponse_post\n 7 \t{SEEKER}\t{RESPONSE}\n"),
        *(
            text(
                tmp_path / f"{number}.jsonl",
                json.dumps({"seeker_id": value, "seeker_post": SEEKER, "response_post": RESPONSE}),
            )
            for number, value in enumerate((7, 7.0, "7", "7.0"))
        ),
    ]
    assert [example.seeker_id for path in files for example in read(path).examples] == ["7"] * len(files)


def test_ids_that_are_no_whole_numbers_stay(tmp_path: Path):
    ids = [1.5, 2.0, None, float("nan")]
    path = parquet(tmp_path / "a.parquet", seeker_id=ids, seeker_post=[SEEKER] * 4, response_post=[RESPONSE] * 4)
    assert [example.seeker_id for example in read(path).examples] == ["1.5", "2", *[WITHOUT_IDS.seeker_id] * 2]
    given = ["007", "1.0.0", "u/joe", "1e5"]
    path = parquet(tmp_path / "b.parquet", seeker_id=given, seeker_post=[SEEKER] * 4, response_post=[RESPONSE] * 4)
    assert [example.seeker_id for example in read(path).examples] == given


@pytest.mark.parametrize("blank", ["", "  ", "nan", "None", "<NA>", None])
def test_blank_ids_do_not_make_everybody_one_seeker(tmp_path: Path, blank: str | None):
    seekers = [f"Post number {number}." for number in range(60)]
    path = parquet(tmp_path / "a.parquet", seeker_id=[blank] * 60, seeker_post=seekers, response_post=[RESPONSE] * 60)
    splits = split_examples(read(path).examples, DataConfig())
    assert splits.train
    assert splits.test


def test_a_bad_row_of_a_parquet_file_costs_that_row_alone(tmp_path: Path):
    bad = pa.array([b"a b", b"caf\xe9"]).view(pa.string())
    columns = {
        "seeker_post": pa.chunked_array([pa.array([SEEKER, None, SEEKER, " "]), bad]),
        "response_post": [RESPONSE, RESPONSE, RESPONSE, RESPONSE, None, RESPONSE],
        **{name: [1, 1, 3 if name == LEVELS[1] else 1, 1, 1, 1] for name in LEVELS},
    }
    path = parquet(tmp_path / "a.parquet", **columns)
    assert posts(path) == [(SEEKER, RESPONSE)]
    assert reasons(path) == [
        (2, "seeker_post is missing"),
        (3, f"{LEVELS[1]} is not 0, 1 or 2"),
        (4, "seeker_post is empty"),
        (5, "response_post is missing"),
        (6, "seeker_post is not UTF-8"),
    ]


def test_a_column_of_nothing_but_nulls_is_a_column_without_values(tmp_path: Path):
    nulls = {name: pa.nulls(1) for name in ("seeker_id", "response_id", *LEVELS, *RATIONALES)}
    assert read(parquet(tmp_path / "a.parquet", seeker_post=[SEEKER], response_post=[RESPONSE], **nulls)).examples == (
        WITHOUT_IDS,
    )
    path = parquet(tmp_path / "b.parquet", seeker_post=pa.nulls(2), response_post=[RESPONSE] * 2)
    with pytest.raises(PartnerError, match=r"no usable pair: 2 rows rejected \(2 × seeker_post is missing\)"):
        read(path)


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("seeker_post", [{"text": "a"}], "struct"),
        ("explorations_level", [True], "bool"),
        ("seeker_id", pa.array([0], pa.timestamp("s")), "timestamp"),
    ],
)
def test_a_column_that_holds_something_else_is_named(tmp_path: Path, column: str, values: object, kind: str):
    columns = {"seeker_post": [SEEKER], "response_post": [RESPONSE], column: values}
    with pytest.raises(PartnerError, match=rf"a\.parquet: column {column} is {kind}.*, expected text, numbers"):
        read(parquet(tmp_path / "a.parquet", **columns))


def test_uuids_are_ids(tmp_path: Path):
    ids = pa.array([bytes(range(16))], pa.uuid())
    path = parquet(tmp_path / "a.parquet", seeker_id=ids, seeker_post=[SEEKER], response_post=[RESPONSE])
    assert read(path).examples[0].seeker_id == "00010203-0405-0607-0809-0a0b0c0d0e0f"


def test_rewritings_of_any_parquet_file_stay_beside_their_rows(tmp_path: Path):
    path = parquet(
        tmp_path / "a.parquet",
        rewritten_response=pa.array(["First.", "Second.", None, "Fourth.", " "]).cast(pa.large_string()),
        response_post=pa.array([RESPONSE, None, RESPONSE, RESPONSE, RESPONSE]).dictionary_encode(),
        seeker_post=[SEEKER] * 5,
    )
    rows = list(iter_rewritten(str(path), 1000))
    assert [row.reason if isinstance(row, Reject) else row.rewritten_response for row in rows] == [
        "First.",
        "response_post is missing",
        None,
        "Fourth.",
        "rewritten_response is empty",
    ]
    content = 'seeker_post\tresponse_post\trewritten_response\n"A ""post"""\t"Two\nlines"\tNew.\n'
    (row,) = iter_rewritten(str(text(tmp_path / "a.tsv", content)), 1000)
    assert isinstance(row, RewrittenPair)
    assert (row.example.seeker_post, row.example.response_post) == ('A "post"', "Two\nlines")
    assert row.rewritten_response == "New."


# Labels


def test_rows_without_all_levels_are_unlabelled_and_said_to_be(tmp_path: Path):
    columns: dict[str, object] = {"seeker_post": [SEEKER] * 3, "response_post": [RESPONSE] * 3}
    levels = [[1.0, None, float("nan")], [0.0, None, 2.0], [2.0, float("nan"), 1.0]]
    columns |= dict(zip(LEVELS, levels, strict=True))
    lines = [
        json.dumps({"seeker_post": SEEKER, "response_post": RESPONSE, **dict(zip(LEVELS, row, strict=True))})
        for row in zip(*levels, strict=True)
    ]
    for path in (parquet(tmp_path / "a.parquet", **columns), text(tmp_path / "a.jsonl", "\n".join(lines))):
        result = read(path)
        assert [example.empathy for example in result.examples] == [3, None, None]
        assert [(remark.line, remark.reason) for remark in result.remarks] == [(3, PARTLY_LABELLED)]
        assert result.rejects == ()


def test_two_mechanisms_alone_are_no_labels_in_any_format(tmp_path: Path):
    path = text(tmp_path / "a.csv", f"seeker_post,response_post,{LEVELS[0]},{LEVELS[1]}\n{SEEKER},{RESPONSE},1,2\n")
    assert [remark.reason for remark in read(path).remarks] == [PARTLY_LABELLED]
    path = parquet(tmp_path / "a.parquet", seeker_post=[SEEKER], response_post=[RESPONSE], level=[2])
    assert [remark.reason for remark in read(path).remarks] == [ONE_MECHANISM]


# Text


def test_a_table_with_tabs_from_pandas_keeps_its_quotes_lines_and_order(tmp_path: Path):
    content = (
        "\tresponse_post\tseeker_post\n"
        '0\t"He said ""go on"".\nThen left."\tI feel lost.\n'
        '1\tPlain, with comma\t"A\ttab"\n'
    )
    assert posts(text(tmp_path / "a.tsv", content)) == [
        ("I feel lost.", 'He said "go on".\nThen left.'),
        ("A\ttab", "Plain, with comma"),
    ]


@pytest.mark.parametrize(
    "header", ["seeker_post\ttext", "post_text\treply", "id\tseeker_post\treply", "Seeker-Post\tb_c"]
)
def test_a_header_is_never_a_pair(tmp_path: Path, header: str):
    path = text(tmp_path / "a.tsv", f"{header}\nI feel lost.\tGo on.\tx\n")
    with pytest.raises(PartnerError, match=r"a\.tsv lacks the columns .*response_post: name the columns"):
        read(path)


def test_a_table_with_a_header_whose_marks_belong_to_the_text(tmp_path: Path):
    content = 'seeker_post\tresponse_post\nShe said "no" again\t"Go on" is what I say\n"Odd\tReply\nPost\t5\'10" tall\n'
    assert posts(text(tmp_path / "a.tsv", content)) == [
        ('She said "no" again', '"Go on" is what I say'),
        ('"Odd', "Reply"),
        ("Post", "5'10\" tall"),
    ]


def test_a_mark_that_is_never_closed_swallows_nothing_without_a_header(tmp_path: Path):
    rows = [("Post", "Reply"), ('"Bad one', "Reply"), ("Second", "Reply"), ("5'10\"", "Reply"), ("Last", "Reply")]
    path = text(tmp_path / "a.tsv", "".join(f"{seeker}\t{response}\n" for seeker, response in rows))
    assert posts(path) == rows
    path = text(tmp_path / "b.tsv", "".join(f"{seeker}\t{response}\n" for seeker, response in rows[:3]))
    assert posts(path) == rows[:3]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_encodings_of_spreadsheets(tmp_path: Path, encoding: str, separator: str):
    lines = (f"sp_id{separator}Seeker Post{separator}Response_Post", f'1{separator}"Où?{separator}"{separator}Là', "")
    path = text(tmp_path / "a.csv", "\r\n".join(lines).encode(encoding))
    assert read(path).examples == (Example("1", response_hash(f"Où?{separator}", "Là"), f"Où?{separator}", "Là"),)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "seeker_post,response_post\na,b\n".encode("utf-16-le"),
            "seems to be UTF-16 without a byte order mark: save",
        ),
        ("seeker_post,response_post\na,b\n".encode("utf-16")[:-1], "is damaged UTF-16.*: save it as UTF-8"),
        (gzip.compress(b"seeker_post,response_post\n", mtime=0), r"is compressed \(gzip\): decompress it first"),
        (b"PK\x03\x04 spreadsheet", "is a spreadsheet or an archive .* save it as CSV in UTF-8"),
        (b"PAR1 rows", r"is a Parquet file: let its name end in \.parquet"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path: Path, name: str, content: bytes, message: str):
    with pytest.raises(PartnerError, match=message) as caught:
        read(text(tmp_path / name, content))
    assert "\n" not in str(caught.value)


def test_a_latin_1_file_costs_the_rows_that_show_it(tmp_path: Path):
    path = text(tmp_path / "a.csv", "seeker_post,response_post\nOù?,Là\nI feel lost.,Go on.\n".encode("latin-1"))
    assert posts(path) == [("I feel lost.", "Go on.")]
    assert reasons(path) == [(2, "seeker_post is not UTF-8")]
    path = text(tmp_path / "b.csv", "seeker_post,response_post\nOù?,Là\n".encode("latin-1"))
    with pytest.raises(PartnerError, match="1 × seeker_post is not UTF-8"):
        read(path)


def test_other_columns_may_be_unnamed_and_repeated(tmp_path: Path):
    path = text(tmp_path / "a.csv", f"note,seeker_post,response_post,note,,\nx,{SEEKER},{RESPONSE},y,,\n")
    assert read(path).examples == (WITHOUT_IDS,)
    path = text(tmp_path / "a.jsonl", json.dumps({"Seeker_Post": "a", "seeker post": "b", "response_post": "c"}))
    with pytest.raises(PartnerError, match="1 × seeker_post is given twice"):
        read(path)
    with pytest.raises(PartnerError, match="names a column twice: seeker_post"):
        read(parquet(tmp_path / "a.parquet", seeker_post=["a"], **{"Seeker Post": ["b"], "response_post": ["c"]}))


def test_files_that_were_put_together_keep_one_header(tmp_path: Path):
    content = f"seeker_post,response_post\n{SEEKER},{RESPONSE}\n"
    path = text(tmp_path / "a.csv", content * 2)
    assert posts(path) == [(SEEKER, RESPONSE)] * 2
    assert reasons(path) == [(3, "the header again")]
    assert posts(text(tmp_path / "b.csv", b"\xef\xbb\xbf\xef\xbb\xbf" + content.encode())) == [(SEEKER, RESPONSE)]
    path = text(tmp_path / "a.tsv", f"{SEEKER}\t{RESPONSE}\nseeker_post\tresponse_post\n")
    assert reasons(path) == [(2, "the header again")]


@pytest.mark.parametrize("level", ["9" * 5000, "-1", "1e0", "0x1", "١", "1_0", "true", "1.5", "inf"])
def test_a_level_that_is_none_costs_its_row_alone(tmp_path: Path, level: str):
    content = f"seeker_post,response_post,{LEVELS[0]}\n{SEEKER},{RESPONSE},{level}\n{SEEKER},{RESPONSE},\n"
    path = text(tmp_path / "a.csv", content)
    assert reasons(path) == [(2, f"{LEVELS[0]} is not 0, 1 or 2")]


def test_a_column_named_level_may_be_anything(tmp_path: Path):
    path = text(tmp_path / "a.csv", f"seeker_post,response_post,level\n{SEEKER},{RESPONSE},beginner\n")
    assert read(path) == ReadResult((WITHOUT_IDS,), (), ())


def test_a_pipe_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(PartnerError, match=r"pipe\.csv is no regular file.*: write it to a file first"):
        read(tmp_path / "pipe.csv")


def test_a_path_that_cannot_be_one_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text(tmp_path / "a.xlsx", "PK")
    for name in ("x" * 5000, "nowhere/a.csv", "a.xlsx/a.csv", "a.xlsx", "", "~nobody/a.csv", "a\0.csv"):
        assert run("data", "stats", tmp_path / name if name[:1] not in ("", "~") else name) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert "unexpected" not in error


# Folders


def folder_of(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        write_parquet([Example(f"s{number}", f"r{number}", f"Post {number}.", RESPONSE)], folder / name)
    return folder


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path: Path):
    folder = folder_of(tmp_path / "f", "b.parquet", "a.parquet", ".c.parquet", "_d.parquet")
    folder_of(folder / "inner", "e.parquet")
    calls: list[tuple[int, int]] = []
    result = read_examples(str(folder), progress=lambda done, total: calls.append((done, total)))
    assert [example.seeker_id for example in result.examples] == ["s1", "s0"]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == calls[-1][1] == sum(path.stat().st_size for path in folder.glob("[ab].parquet"))


def test_rejected_rows_of_a_folder_name_their_file(tmp_path: Path):
    text(tmp_path / "a.csv", "seeker_post,response_post\nPost,Reply\n")
    text(tmp_path / "b.csv", "seeker_post,response_post\nPost,\n")
    assert read(tmp_path).rejects == (Reject(2, "response_post is empty", "b.csv"),)
    text(tmp_path / "c.csv", "seeker_post,reply\nPost,Reply\n")
    with pytest.raises(PartnerError, match=r"c\.csv lacks the columns response_post"):
        read(tmp_path)


def test_a_folder_with_the_same_pairs_in_two_formats_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text(tmp_path / "pairs.csv", f"seeker_post,response_post\n{SEEKER},{RESPONSE}\n,\n")
    assert run("data", "convert", tmp_path / "pairs.csv", tmp_path / "pairs.parquet") == 0
    with pytest.raises(PartnerError, match=r"several formats \(\.csv, \.parquet\), which may be the same pairs: name"):
        read(tmp_path)
    (tmp_path / "pairs.csv").unlink()
    # What is left beside the pairs is the list of rejected rows.
    assert (tmp_path / "pairs.rejects.jsonl").exists()
    assert posts(tmp_path) == [(SEEKER, RESPONSE)]
    capsys.readouterr()
    assert run("data", "stats", tmp_path) == 0
    assert "1 pairs of 1 seeker posts" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "dataset"])
def test_a_folder_that_lacks_one_file_of_the_epitome_layout_is_not_read_as_less(tmp_path: Path, name: str):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    for mechanism in MECHANISMS[:2]:
        text(
            folder / f"{mechanism.replace('_', '-')}-reddit.csv",
            "sp_id,rp_id,seeker_post,response_post,level,rationales\n",
        )
    with pytest.raises(PartnerError, match="holds no corpus in the EPITOME layout"):
        read(tmp_path)


def test_a_folder_without_pairs_says_what_would_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text(tmp_path / "notes.txt", "notes")
    assert run("data", "stats", tmp_path) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "holds no corpus in the EPITOME layout" in error
    assert "and no other files of pairs" in error


def test_unfinished_folders_are_refused(tmp_path: Path):
    folder = folder_of(tmp_path / "label", "a-00000.parquet", "a-00001.parquet")
    markers = folder / DONE
    markers.mkdir()
    text(markers / RUN, json.dumps({"stage": "label", "units": 2}))
    text(markers / "a-00000.json", "{}")
    with pytest.raises(PartnerError, match="is unfinished: run the command that makes it again"):
        read(folder)
    text(markers / "a-00001.json", "{}")
    assert len(read(folder).examples) == 2
    (folder / "a-00001.parquet").unlink()
    with pytest.raises(PartnerError, match="is unfinished"):
        read(folder)


@pytest.mark.parametrize(("work", "end"), [("_work", f"{DONE}/curate.json"), ("_candidates", "report.json")])
def test_folders_between_two_passes_are_refused(tmp_path: Path, work: str, end: str):
    folder = folder_of(tmp_path / "out", "a-00000.parquet")
    (folder / work).mkdir()
    assert len(read(folder).examples) == 1, "a folder of the user's own"
    (folder / work / DONE).mkdir()
    with pytest.raises(PartnerError, match="is unfinished"):
        read(folder)
    (folder / end).parent.mkdir(exist_ok=True)
    text(folder / end, "{}")
    assert len(read(folder).examples) == 1
