"""Texts of posts: in no log, and with `--redact` in no file of a run and on no terminal."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from partner_rl.data.pair_schema import write_parquet
from partner_rl.data.readers import read_examples
from partner_rl.evaluation.evaluate_systems import evaluate_systems
from partner_rl.evaluation.report_files import About, write_report
from tests.evaluation.toy import made_up_pairs, made_up_systems, sources
from tests.helpers.command_line import partner, partner_process

MARK = "Xylograph"
"""Stands in every post of the corpus, and in no word that a model could make up out of its pieces by chance."""
TINY = ["--preset", "smoke", "tracking.wandb=offline", "tracking.tensorboard=true", "data.max_train_pairs=24"]


@dataclass(frozen=True)
class Run:
    """A command that has ended.

    Attributes:
        folder: Its run folder.
        logs: Folder of Ray's sessions.
        said: What it wrote to standard output.
        told: What it wrote to standard error.
    """

    folder: Path
    logs: Path
    said: str
    told: str


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Labelled pairs: the mark stands all over the seeker's post, and around the response."""
    examples = read_examples("sample").examples
    marked = [
        # Rationales are passages of the response, which is therefore left in one piece.
        replace(pair, seeker_post=with_marks(pair.seeker_post), response_post=f"{MARK} {pair.response_post} {MARK}.")
        for pair in examples
    ]
    path = tmp_path_factory.mktemp("corpus") / "pairs.parquet"
    write_parquet(marked, path)
    return path


def with_marks(post: str) -> str:
    return " ".join(f"{MARK} {word}" if number % 4 == 0 else word for number, word in enumerate(post.split()))


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Ray's sessions; a short path, as sockets lie there."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run_command(*arguments: object, folder: Path, ray_folder: Path, name: str) -> Run:
    os.environ["RAY_TMPDIR"] = str(ray_folder)
    try:
        result = partner_process(*arguments, *TINY, f"name={name}", folder=folder, timeout=500)
    finally:
        del os.environ["RAY_TMPDIR"]
    assert result.returncode == 0, result.stderr
    return Run(folder / "runs" / name, ray_folder, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def trained(corpus, ray_folder, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("train")
    return run_command("train", f"data.source={corpus}", folder=folder, ray_folder=ray_folder, name="open")


@pytest.fixture(scope="module")
def redacted(corpus, ray_folder, trained, tmp_path_factory) -> Run:
    folder, made = tmp_path_factory.mktemp("quickstart"), trained.folder
    models = [f"rewards.{name}.checkpoint={made / 'rewards' / name}" for name in ("empathy", "coherence")]
    models.append(f"warmstart.checkpoint={made / 'warm_start'}")
    given = ["quickstart", "--redact", f"data.source={corpus}", *models]
    return run_command(*given, folder=folder, ray_folder=ray_folder, name="redacted")


def files_with_the_mark(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix() for path in files if MARK.lower() in marks_of(path)}


def marks_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="ignore").lower()
    except FileNotFoundError:
        # Ray's processes may still be tidying up behind the command: what is gone holds nothing.
        return ""


@pytest.mark.slow
def test_texts_are_in_the_sample_rows_and_in_no_log(trained):
    assert "iteration 2/2" in trained.told
    assert MARK not in trained.said + trained.told
    logs = list(trained.logs.rglob("*.log")) + list(trained.logs.rglob("*.out")) + list(trained.logs.rglob("*.err"))
    assert any("worker-" in path.name for path in logs)
    assert files_with_the_mark(trained.logs) == set()
    found = files_with_the_mark(trained.folder)
    # The rows of the before/after table are what posts may stand in; W&B's log holds the same rows.
    assert "samples.jsonl" in found
    assert any(name.startswith("wandb/") for name in found)
    assert {name for name in found if not name.startswith("wandb/")} == {"samples.jsonl"}


@pytest.mark.slow
def test_redacted_runs_hold_no_texts(redacted):
    assert "change in empathy" in redacted.said
    assert MARK not in redacted.said + redacted.told
    assert files_with_the_mark(redacted.logs) == set()
    assert files_with_the_mark(redacted.folder) == set()
    for name in ("samples.jsonl", "rewrites.jsonl", "summary.json"):
        assert (redacted.folder / name).stat().st_size > 0
    assert list(redacted.folder.rglob("*.wandb"))
    assert "rewritten_response" not in (redacted.folder / "rewrites.jsonl").read_text(encoding="utf-8")


@pytest.mark.slow
def test_an_evaluation_of_a_redacted_run_refuses_to_write_posts(redacted, tmp_path):
    for option in (["--with-posts"], ["--human-sheet", tmp_path / "sheet.csv"]):
        result = partner("evaluate", redacted.folder, *option, folder=tmp_path)
        assert result.returncode == 1
        assert f"{option[0]} writes texts, which tracking.redact forbids" in result.stderr


def test_a_redacted_report_has_no_rewrites(tmp_path):
    pairs = made_up_pairs(6)
    result = evaluate_systems(made_up_systems(pairs), pairs, sources(), headline_N=np.ones(6, dtype=np.bool_))
    write_report(tmp_path, result, About("Redacted", {}, with_rewrites=False))
    table = pq.read_table(tmp_path / "pairs.parquet")
    assert table.num_rows == 3 * 6
    assert not {"rewritten_response", "written_sentences", "seeker_post", "response_post"} & set(table.column_names)
    for path in tmp_path.iterdir():
        if path.suffix in (".md", ".html", ".json"):
            assert not any(pair.response_post in path.read_text(encoding="utf-8") for pair in pairs)


def test_a_resumed_run_keeps_its_own_settings(tmp_path):
    result = partner("train", "--resume", tmp_path, "--redact", folder=tmp_path)
    assert result.returncode == 1
    assert "leave --redact out" in result.stderr
