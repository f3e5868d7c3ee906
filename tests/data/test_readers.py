"""Every format is read, every bad row is rejected with its line and reason, and nothing else is lost."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import launch.commands.data.app
from partner_rl.data import delimited
from partner_rl.data.epitome import EPITOME_COLUMNS, EPITOME_FILES, REPEATED
from partner_rl.data.pair_schema import write_parquet
from partner_rl.data.readers import read_examples, write_rejects
from partner_rl.data.records import Reject
from partner_rl.data.rows import DROPPED_RATIONALE, LEVEL_ZERO_RATIONALE, ONE_MECHANISM, PARTLY_LABELLED, locate
from partner_rl.types import MECHANISMS, Example, MechanismLabel, PartnerError

REAL = Path(__file__).parents[3] / "shared" / "data"
SEEKER, RESPONSE = "I feel lost today.", "I am sorry. What happened?"


def write_csv(path: Path, rows: list[list[object]], header: tuple[str, ...] = EPITOME_COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_folder(folder: Path, levels: tuple[int, int, int] = (1, 0, 2)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rationales = ("I am sorry.|", "", "What happened?|")
    for name, level, rationale in zip(EPITOME_FILES, levels, rationales, strict=True):
        write_csv(
            folder / name,
            [["s1", "r1", SEEKER, RESPONSE, level, rationale], ["s2", "r2", "Second, with\nlines", "Reply", 0, ""]],
        )
    return folder


def reasons(rejects) -> list[tuple[int, str]]:
    return [(reject.line, reject.reason) for reject in rejects]


def test_epitome_folder_is_joined(tmp_path):
    result = read_examples(str(write_folder(tmp_path)))
    assert result.rejects == ()
    assert result.remarks == ()
    labels = (MechanismLabel(1, ("I am sorry.",)), MechanismLabel(0), MechanismLabel(2, ("What happened?",)))
    assert result.examples[0] == Example("s1", "r1", SEEKER, RESPONSE, labels)
    assert result.examples[1].seeker_post == "Second, with\nlines"
    assert result.examples[1].empathy == 0


def test_a_folder_that_holds_the_layout_in_dataset(tmp_path):
    write_folder(tmp_path / "dataset")
    assert len(read_examples(str(tmp_path)).examples) == 2
    (tmp_path / "dataset" / EPITOME_FILES[1]).unlink()
    with pytest.raises(PartnerError, match="holds no corpus in the EPITOME layout"):
        read_examples(str(tmp_path))


def test_epitome_repeats_and_contradictions(tmp_path):
    write_folder(tmp_path)
    with (tmp_path / EPITOME_FILES[0]).open("a", newline="") as file:
        csv.writer(file).writerows([["s1", "r1", SEEKER, RESPONSE, 2, ""], ["s1", "r1", SEEKER, "Another text", 2, ""]])
    result = read_examples(str(tmp_path))
    assert [remark.reason for remark in result.remarks] == [REPEATED]
    assert reasons(result.rejects) == [(6, "same ids as line 2 with another text")]
    assert result.examples[0].labels is not None
    assert result.examples[0].labels[0].level == 1


def test_epitome_pairs_that_lack_a_mechanism(tmp_path):
    write_folder(tmp_path)
    write_csv(tmp_path / EPITOME_FILES[2], [["s1", "r1", SEEKER, RESPONSE, 7, ""]])
    write_csv(
        tmp_path / EPITOME_FILES[1], [["s1", "r1", SEEKER, RESPONSE, 0, ""], ["s2", "r2", "Post", "Reply", 0, ""]]
    )
    with pytest.raises(PartnerError, match=r"holds no usable pair: 2 rows rejected .*, the first at explorations"):
        read_examples(str(tmp_path))
    write_folder(tmp_path / "more")
    write_csv(tmp_path / "more" / EPITOME_FILES[2], [["s1", "r1", SEEKER, RESPONSE, 1, ""]])
    result = read_examples(str(tmp_path / "more"))
    assert result.rejects == (Reject(3, f"no row with these ids in {EPITOME_FILES[2]}", EPITOME_FILES[0]),)


def test_epitome_spellings_differ_between_files(tmp_path):
    spellings = ("It  hurts.\n So sorry &lt;3", "It hurts. So sorry &lt;3", "It hurts. sorry &lt;3")
    rationales = ("So sorry <3|not there|", "It hurts. So|", "")
    for name, response, rationale in zip(EPITOME_FILES, spellings, rationales, strict=True):
        write_csv(tmp_path / name, [["s1", "r1", SEEKER, response, 1, rationale]])
    result = read_examples(str(tmp_path))
    (example,) = result.examples
    assert example.response_post == spellings[0]
    assert example.labels is not None
    assert [label.rationales for label in example.labels] == [("So sorry &lt;3",), ("It  hurts.\n So",), ()]
    assert [remark.reason for remark in result.remarks] == [DROPPED_RATIONALE]


BAD_ROWS = [
    (["s", "r", SEEKER, RESPONSE], "4 columns instead of 6"),
    (["s", "r", SEEKER, RESPONSE, 0, "", "more"], "7 columns instead of 6"),
    (["s", "r", SEEKER, RESPONSE, 3, ""], "level is not 0, 1 or 2"),
    (["s", "r", SEEKER, RESPONSE, "", ""], "level is not 0, 1 or 2"),
    (["s", "r", SEEKER, RESPONSE, "high", ""], "level is not 0, 1 or 2"),
    (["s", "r", " \n\u200b", RESPONSE, 0, ""], "seeker_post is empty"),
    (["s", "r", SEEKER, "", 0, ""], "response_post is empty"),
    (["s", "r", SEEKER, "a\0b", 0, ""], "response_post holds a NUL"),
    (["s\0", "r", SEEKER, RESPONSE, 0, ""], "sp_id holds a NUL"),
    (["s", "r", SEEKER, "x" * 100_000, 0, ""], "response_post has 100000 characters, the limit is 20000"),
    (["s", "r", "line\n" * 20_000, RESPONSE, 0, ""], "seeker_post has 100000 characters, the limit is 20000"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_epitome_row_costs_that_row_alone(tmp_path, row, reason):
    write_folder(tmp_path)
    rows = [["s1", "r1", SEEKER, RESPONSE, 1, ""], row, ["s2", "r2", "Second", "Reply", 0, ""]]
    write_csv(tmp_path / EPITOME_FILES[0], rows)
    result = read_examples(str(tmp_path))
    assert [example.seeker_id for example in result.examples] == ["s1", "s2"]
    assert reasons(result.rejects) == [(3, reason)]


def test_bytes_that_are_not_utf8_cost_their_row_alone(tmp_path):
    write_folder(tmp_path)
    path = tmp_path / EPITOME_FILES[0]
    path.write_bytes(path.read_bytes() + b's3,r3,"caf\xe9,\r\nquoted",Reply,0,\r\ns4,r4,Post,Reply,0,\r\n')
    result = read_examples(str(tmp_path))
    assert (5, "seeker_post is not UTF-8") in reasons(result.rejects)
    assert (7, f"no row with these ids in {EPITOME_FILES[1]}, {EPITOME_FILES[2]}") in reasons(result.rejects)
    assert len(result.examples) == 2


def test_a_quotation_mark_that_never_closes_costs_its_line_alone(tmp_path, monkeypatch):
    path = tmp_path / "pairs.csv"
    good = [f"Post {number},Reply {number}" for number in range(500)]
    path.write_text("\n".join(["seeker_post,response_post", *good[:250], 'Bad,"never closed', *good[250:]]) + "\n")
    result = read_examples(str(path))
    assert len(result.examples) == 500
    assert reasons(result.rejects) == [(252, "not CSV: unexpected end of data")]
    monkeypatch.setattr(delimited, "MAX_RECORD_CHARACTERS", 1000)
    result = read_examples(str(path))
    assert len(result.examples) == 500
    assert reasons(result.rejects) == [(252, "a quotation mark is never closed")]


def test_a_quotation_mark_that_swallows_the_next_row_costs_its_line_alone(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text('seeker_post,response_post\n"Bad,one\n"Good, and quoted",Reply\nPost,Reply\n')
    result = read_examples(str(path))
    assert [example.seeker_post for example in result.examples] == ["Good, and quoted", "Post"]
    assert [reject.line for reject in result.rejects] == [2]


def test_an_endless_line_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "MAX_RECORD_CHARACTERS", 200_000)
    monkeypatch.setattr(csv, "field_size_limit", lambda *limit: _FIELD_LIMIT(200_000))
    path = tmp_path / "pairs.csv"
    path.write_text("seeker_post,response_post\n" + "x" * 1_000_000 + ",Reply\nPost,Reply\n")
    try:
        result = read_examples(str(path))
    finally:
        _FIELD_LIMIT(131_072)
    assert len(result.examples) == 1
    assert result.rejects[0].line == 2
    assert result.rejects[0].reason.startswith("not CSV: field larger than field limit")


_FIELD_LIMIT = csv.field_size_limit


@given(st.lists(st.tuples(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_csv_keeps_every_text_byte_for_byte(tmp_path_factory, pairs):
    def usable(text: str) -> bool:
        return bool(text.strip()) and text.isprintable() and text.encode("utf-8", "replace").decode() == text

    rows = [(f'{seeker},\n"{seeker}"\r\n', response) for seeker, response in pairs if usable(seeker + response)]
    rows = [(seeker, response) for seeker, response in rows if response.strip()] or [("Post", "Reply")]
    path = tmp_path_factory.mktemp("csv") / "pairs.csv"
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("seeker_post", "response_post"), *rows])
    path.write_bytes(buffer.getvalue().encode())
    result = read_examples(str(path))
    assert result.rejects == ()
    assert [(example.seeker_post, example.response_post) for example in result.examples] == rows


def test_generic_csv_with_labels_and_without_ids(tmp_path):
    header = (
        "Seeker_Post",
        "response-post",
        *(f"{mechanism}_level" for mechanism in MECHANISMS),
        "explorations_rationales",
    )
    path = write_csv(
        tmp_path / "pairs.csv",
        [
            [SEEKER, RESPONSE, 1, 0, "2.0", "What happened?"],
            [SEEKER, "Other reply", "", "", "", ""],
            [SEEKER, RESPONSE, 1, "", 0, ""],
            [SEEKER, RESPONSE, 1, 0, 0, "What happened?"],
        ],
        header,
    )
    result = read_examples(str(path))
    first, second, partly, third = result.examples
    assert first.labels == (MechanismLabel(1), MechanismLabel(0), MechanismLabel(2, ("What happened?",)))
    assert second.labels is partly.labels is None
    assert first.seeker_id == second.seeker_id == third.seeker_id
    assert first.response_id != second.response_id
    assert first.response_id == third.response_id
    assert result.rejects == ()
    assert [remark.reason for remark in result.remarks] == [PARTLY_LABELLED, LEVEL_ZERO_RATIONALE]


def test_one_epitome_file_gives_unlabelled_pairs(tmp_path):
    write_folder(tmp_path)
    result = read_examples(str(tmp_path / EPITOME_FILES[0]))
    assert [example.labels for example in result.examples] == [None, None]
    assert [remark.reason for remark in result.remarks] == [ONE_MECHANISM] * 2


def test_tsv_has_two_columns_and_no_quoting(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b'\xef\xbb\xbfPost "one\tReply, one\r\n\nonly one column\nPost\tna\xefve\nPost\tReply\n')
    result = read_examples(str(path))
    assert [example.seeker_post for example in result.examples] == ['Post "one', "Post"]
    assert result.examples[0].response_post == "Reply, one"
    assert reasons(result.rejects) == [(3, "1 columns instead of 2"), (4, "response_post is not UTF-8")]


def test_jsonl(tmp_path):
    path = tmp_path / "pairs.jsonl"
    labels = {f"{mechanism}_level": 1 for mechanism in MECHANISMS} | {"explorations_rationales": ["What happened?"]}
    lines: list[object] = [
        {"seeker_id": 7, "seeker_post": SEEKER, "response_post": RESPONSE, **labels},
        {"seeker_post": SEEKER},
        {"seeker_post": SEEKER, "response_post": 5},
        {"seeker_post": SEEKER, "response_post": "\ud800"},
        {"seeker_post": SEEKER, "response_post": RESPONSE, **labels, "explorations_level": True},
        {"seeker_post": SEEKER, "response_post": RESPONSE, **labels, "explorations_rationales": {"a": 1}},
        {"seeker_post": SEEKER, "response_post": RESPONSE, "seeker_id": [1]},
        [1, 2],
    ]
    content = "\n".join(map(json.dumps, lines)).encode() + b'\n{"seeker_post": \n\xff\n\n' + b"[" * 100_000 + b"\n"
    path.write_bytes(content)
    result = read_examples(str(path))
    (example,) = result.examples
    assert example.seeker_id == "7"
    assert example.labels is not None
    assert example.labels[2].rationales == ("What happened?",)
    assert reasons(result.rejects) == [
        (2, "response_post is missing"),
        (3, "response_post is no text"),
        (4, "response_post is not UTF-8"),
        (5, "explorations_level is not 0, 1 or 2"),
        (6, "explorations_rationales is no list of texts"),
        (7, "seeker_id is neither text nor a number"),
        (8, "not a JSON object"),
        (9, "not JSON"),
        (10, "not UTF-8"),
        (12, "not JSON"),
    ]


def test_parquet_is_checked_like_the_rest(tmp_path):
    path = tmp_path / "pairs.parquet"
    write_parquet([Example("s", "r", SEEKER, RESPONSE), Example("s", "r", SEEKER, "x" * 99)], path)
    result = read_examples(str(path), max_post_characters=50)
    assert len(result.examples) == 1
    assert reasons(result.rejects) == [(2, "response_post has 99 characters, the limit is 50")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.csv", "", "no header line"),
        ("pairs.csv", "seeker_post,text\n", "lacks the columns response_post"),
        ("pairs.csv", "seeker_post,response_post,Seeker-Post\n", "names a column twice"),
        ("pairs.csv", "seeker_post,response_post\n", "holds no pairs"),
        ("pairs.txt", "hello", "cannot tell the format"),
        ("pairs.tsv", "a\tb\tc\n", "no usable pair: 1 rows rejected"),
    ],
)
def test_files_that_are_no_corpus(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(PartnerError, match=message):
        read_examples(str(tmp_path / name))


def test_a_source_that_does_not_exist(tmp_path):
    with pytest.raises(PartnerError, match="no data at"):
        read_examples(str(tmp_path / "nothing.csv"))


def test_rationales_are_found_in_the_response():
    response = "I'm  so sorry &amp; here\nfor you."
    assert locate("so sorry & here for", response) == "so sorry &amp; here\nfor"
    assert locate(" sorry ", response) == "sorry"
    assert locate("somewhere else", response) is None


def test_the_sample_corpus_is_complete():
    result = read_examples("sample")
    assert result.rejects == ()
    assert result.remarks == ()
    assert len(result.examples) >= 240
    for index in range(len(MECHANISMS)):
        labels = [example.labels[index] for example in result.examples if example.labels is not None]
        assert {label.level for label in labels} == {0, 1, 2}
        assert all(label.rationales for label in labels if label.level)


def test_rejects_are_written_as_json_lines(tmp_path):
    write_rejects([Reject(3, "level is not 0, 1 or 2", "a.csv")], tmp_path / "out" / "rejects.jsonl")
    line = (tmp_path / "out" / "rejects.jsonl").read_text()
    assert json.loads(line) == {"line": 3, "reason": "level is not 0, 1 or 2", "file": "a.csv"}


def test_command_convert(tmp_path):
    source = write_csv(tmp_path / "pairs.csv", [[SEEKER, RESPONSE], [SEEKER, ""]], ("seeker_post", "response_post"))
    output, runner = tmp_path / "pairs.parquet", CliRunner()
    strict = runner.invoke(launch.commands.data.app.app, ["convert", str(source), str(output), "--strict"])
    assert isinstance(strict.exception, PartnerError)
    assert "line 3: response_post is empty" in str(strict.exception)
    assert not output.exists()
    lenient = runner.invoke(launch.commands.data.app.app, ["convert", str(source), str(output)])
    assert lenient.exit_code == 0, lenient.output
    assert "1 pairs written" in lenient.output
    assert "1 rows rejected" in lenient.output
    assert json.loads((tmp_path / "pairs.rejects.jsonl").read_text())["line"] == 3
    assert [example.response_post for example in read_examples(str(output)).examples] == [RESPONSE]


def test_command_stats_prints_no_text():
    result = CliRunner().invoke(launch.commands.data.app.app, ["stats", "sample"])
    assert result.exit_code == 0, result.output
    assert "explorations" in result.output
    for example in read_examples("sample").examples[:20]:
        assert example.seeker_post[:20] not in result.output


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data beside the repository")
def test_the_public_data_set():
    result = read_examples(str(REAL / "epitome"))
    assert len(result.examples) == 2730
    assert result.rejects == ()
    assert sum(remark.reason == DROPPED_RATIONALE for remark in result.remarks) < 20
    for example in result.examples:
        assert example.labels is not None
        assert all(text in example.response_post for label in example.labels for text in label.rationales)


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data beside the repository")
def test_partners_own_sample():
    result = read_examples(str(REAL / "partner_sample.tsv"))
    assert len(result.examples) == 5
    assert result.rejects == ()
