"""Commands refuse, before they compute, to write where it fails or destroys something; their outputs have marks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.training.warm_start_folder import WarmStartFolder
from partner_rl.config.load import load_config, save_config
from partner_rl.storage.artefact import read_mark
from partner_rl.storage.atomic import WriteError, folder_when_whole, growing_folder, write_text
from tests.helpers.command_line import run_here
from tests.helpers.run_folders import write_run

pytestmark = pytest.mark.reported

HEADER = "seeker_post,response_post\n"
PAIRS = HEADER + "".join(f"I am sad about {number}.,What happened {number}?\n" for number in range(3))
TRAINERS = (
    ("judge", "train", "--data", "sample", "--output"),
    ("rewards", "train", "coherence", "--data", "sample", "--output"),
    ("rewards", "train", "empathy", "--data", "sample", "--output"),
    ("rewards", "train", "mi", "--direction", "forward", "--data", "sample", "--output"),
    ("baselines", "train-seq2seq", "--data", "sample", "--output"),
    ("warmstart", "--output"),
    ("data", "train-topic", "--positives", "sample", "--output"),
    ("data", "generate", "--rows", "3"),
    ("data", "curate", "pairs.csv"),
    ("data", "label", "pairs.csv", "--model", "empathy"),
    ("data", "warmstart-pairs", "pairs.csv", "--model", "empathy"),
    ("data", "pull", "epitome", "--source", "epitome", "--output"),
    ("sweep", "reward_weights", "--output"),
    ("ablate", "--preset", "smoke", "--output"),
    ("evaluate", "run", "--output"),
)
"""Commands that write a folder, up to its name."""
WRITERS = (
    ("rewards", "score", "--input", "pairs.csv", "--preset", "smoke", "--only", "fluency", "--output"),
    ("judge", "score", "--input", "pairs.csv", "--model", "judge", "--output"),
    ("rewrite", "--input", "pairs.csv", "--model", "run", "--output"),
    ("data", "convert", "pairs.csv"),
    ("data", "convert", "pairs.csv", "out.parquet", "--rejects"),
    ("evaluate", "run", "--human-sheet"),
    ("rewards", "bench", "--preset", "smoke", "--json"),
)
"""Commands that write a file, up to its name."""


def identity(command: tuple[str, ...]) -> str:
    return "-".join(word for word in command if word.replace("-", "").isalpha())[:40]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file, a folder and an artefact of every kind that a mistake may name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text(PAIRS)
    (tmp_path / "pairs.link").symlink_to("pairs.csv")
    for kind in ("empathy", "coherence", "judge", "policy"):
        with folder_when_whole(tmp_path / kind, kind) as folder:
            write_text(folder / "report.json", "{}")
            write_text(folder / "weights", "trained for days")
    write_text(growing_folder(tmp_path / "swept", "sweep") / "report.json", "{}")
    write_text(tmp_path / "swept" / "trials" / "a" / "metrics.jsonl", "figures")
    write_text(growing_folder(tmp_path / "evaluated", "evaluation") / "report.json", "{}")
    write_text(tmp_path / "thesis" / "report.json", "{}")
    write_text(tmp_path / "epitome" / "other.csv", HEADER)
    write_run(growing_folder(tmp_path / "run", "run"), steps=1)
    (tmp_path / "run" / "export").mkdir()
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def refused(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that is to fail; gives its error, and makes sure that nothing has changed."""

    def run(*arguments: str) -> str:
        before = tree(place)
        assert run_here(*arguments) == 1
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "unexpected" not in error
        assert tree(place) == before
        return error

    return run


@pytest.mark.parametrize("command", TRAINERS, ids=identity)
def test_a_folder_of_another_kind_is_never_replaced(refused: Callable[..., str], command: tuple[str, ...]) -> None:
    kinds = {"judge": "judge", "coherence": "coherence", "empathy": "empathy", "sweep": "swept"}
    own = kinds.get(command[2] if command[0] == "rewards" else command[0])
    for output in ("swept", "evaluated", "judge", "empathy", "coherence", "policy", "thesis", "run"):
        if output == own or (command[0] == "evaluate" and output == "evaluated"):
            continue
        if command[:3] == ("rewards", "train", "mi"):
            # It writes below the folder.
            write_text(Path(output, "forward", "weights"), "")
        for dry in ((), ("--dry-run",)):
            error = refused(*command, output, *dry)
            assert output in error
            assert any(part in error for part in ("holds something else", "exists", "is an input", "holds a sweep"))


@pytest.mark.parametrize("command", TRAINERS, ids=identity)
def test_a_file_in_the_place_of_a_folder_is_found_first(refused: Callable[..., str], command: tuple[str, ...]) -> None:
    for output in ("pairs.csv", "pairs.link", "pairs.csv/new"):
        assert "is a file" in refused(*command, output)


@pytest.mark.parametrize("command", WRITERS, ids=identity)
def test_a_file_is_not_written_over_what_is_read(refused: Callable[..., str], command: tuple[str, ...]) -> None:
    os.link("pairs.csv", "pairs.hard")
    reads = ("pairs.csv", "pairs.link", "pairs.hard") if "pairs.csv" in command else ()
    for output in reads:
        error = refused(*command, output)
        assert f"{output} is an input of this command: name another file" in error
    for output in ("thesis", "judge", "swept"):
        assert "is a folder: name a file in it" in refused(*command, output)
    for output in ("coherence/weights", "swept/trials/a/metrics.jsonl", "run/metrics.jsonl"):
        assert f"{output} is a file of the" in refused(*command, output)
    for output in ("pairs.csv/x", "pairs.csv/x/y"):
        assert "is a file, so that nothing can be in it" in refused(*command, output, "--dry-run")


def test_converting_writes_to_two_places(refused: Callable[..., str]) -> None:
    for output, rejects in (("out.parquet", "out.parquet"), ("out.parquet", "./out.parquet")):
        assert "are the same place: name two" in refused("data", "convert", "pairs.csv", output, "--rejects", rejects)
    assert "say with --rejects" in refused("data", "convert", "pairs.csv", "/dev/stdout")


def test_a_sheet_for_raters_is_not_written_over_one_that_was_filled_in(refused: Callable[..., str]) -> None:
    write_text(growing_folder(Path("run/evaluation"), "evaluation") / "sheet.csv", "filled in by raters")
    error = refused("evaluate", "run", "--human-sheet", "run/evaluation/sheet.csv")
    assert "--human-sheet run/evaluation/sheet.csv is a file of the evaluation" in error


@pytest.mark.parametrize("command", [*TRAINERS[:5], WRITERS[0]], ids=identity)
def test_what_fails_later_leaves_no_folder_on_the_way(
    place: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    before = tree(place)
    (place / "pairs.csv").write_text(HEADER)
    given = ["pairs.csv" if word == "sample" else word for word in command]
    assert run_here(*given, "no/such/folder/x") == 1
    assert "pairs.csv holds no" in capsys.readouterr().err
    (place / "pairs.csv").write_text(PAIRS)
    assert tree(place) == before


# --- Whole commands ---------------------------------------------------------------------------------------------------


def test_converting_follows_links_and_keeps_what_stands_beside(tmp_path: Path) -> None:
    source = tmp_path / "pairs.csv"
    source.write_text(PAIRS + "no,\n")
    (tmp_path / "far").mkdir()
    (tmp_path / "out.parquet").symlink_to("far/pairs.parquet")
    assert run_here("data", "convert", source, tmp_path / "out.parquet", "--rejects", tmp_path / "new" / "bad") == 0
    assert (tmp_path / "out.parquet").is_symlink()
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["pairs.parquet"]
    assert json.loads((tmp_path / "new" / "bad").read_text())["line"] == 5
    source.write_text(PAIRS)
    assert run_here("data", "convert", source, tmp_path / "out.parquet", "--rejects", tmp_path / "new" / "bad") == 0
    assert (tmp_path / "new" / "bad").read_text() == ""
    assert run_here("data", "convert", source, "/dev/null", "--rejects", "/dev/null") == 0
    assert not Path("/dev/null").is_file()


def test_a_corpus_is_generated_anew_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "corpus"
    assert run_here("data", "generate", output, "--rows", 30) == 0
    mark = read_mark(output)
    assert mark is not None
    assert mark.kind == "generated pairs"
    assert run_here("data", "generate", output, "--rows", 20) == 0
    before = tree(output)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("partner_rl.data.synthetic.write_tables", full)
    assert run_here("data", "generate", output, "--rows", 10) == 1
    assert tree(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    monkeypatch.undo()
    (output / "mine.parquet").touch()
    assert run_here("data", "generate", output, "--rows", 10) == 1
    assert (output / "mine.parquet").exists()


def test_a_command_that_fails_half_way_leaves_no_posts_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "pairs.csv"
    source.write_text(PAIRS)
    for error in (KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("boom")):

        def fail(*arguments: object, error: BaseException = error) -> Iterator[dict[str, str]]:
            yield {"seeker_post": "I am sad."}
            raise error

        monkeypatch.setattr("launch.commands.row_scores.row_records", fail)
        monkeypatch.setattr("partner_rl.evaluation.response_scores.ResponseScores", lambda *arguments: None)
        output, only = tmp_path / "new" / "scores.jsonl", ("--only", "fluency")
        status = run_here("rewards", "score", "--input", source, "--output", output, "--preset", "smoke", *only)
        assert status == (130 if isinstance(error, KeyboardInterrupt) else 1)
        assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_a_full_disk_at_the_start_of_a_warm_start_leaves_nothing_that_is_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match=r"the disk of .* is full"):
            save_config(load_config("smoke"), WarmStartFolder(tmp_path / "w").work / "config.yaml")
    assert list(tmp_path.iterdir()) == []
    # What a kill leaves instead is no training either.
    WarmStartFolder(tmp_path / "w").work.mkdir()
    (WarmStartFolder(tmp_path / "w").work / ".config.yaml.0123abcd.part").write_text("seed: ")
    assert run_here("warmstart", "--preset", "smoke", "data.source=nowhere.csv", "--output", tmp_path / "w") == 1
    error = capsys.readouterr().err
    assert "nowhere.csv" in error
    assert "unfinished training" not in error


def test_what_is_written_to_standard_output_is_not_mixed_with_what_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text(PAIRS)
    assert run_here("data", "convert", tmp_path / "pairs.csv", tmp_path / "x", "--rejects", "/dev/stdout") == 0
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "0 rows rejected" in shown.err
    (tmp_path / "pairs.csv").write_text(PAIRS + "no,\n")
    assert run_here("data", "convert", tmp_path / "pairs.csv", tmp_path / "x", "--rejects", "/dev/stdout") == 0
    assert json.loads(capfd.readouterr().out)["line"] == 5
