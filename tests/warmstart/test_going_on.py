"""Going on with an unfinished warm start: what may change, and which inputs it takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import launch.training.warm_start
from tests.helpers.command_line import run_here

pytestmark = pytest.mark.reported

SMALL = ["--preset", "smoke", "data.source=pairs.parquet", "resources.driver_threads=1"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """A folder with a corpus and a warm start that was interrupted after its training, `new.training`."""
    folder = tmp_path_factory.mktemp("interrupted")

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(launch.training.warm_start, "_measure", interrupt)
        assert run_here("data", "convert", "sample", "pairs.parquet") == 0
        assert run_here("warmstart", *SMALL, "-o", "new") == 130
    return folder


@pytest.fixture
def place(interrupted, tmp_path, monkeypatch) -> Path:
    """A copy in another working directory, whose corpus is where it was."""
    shutil.copytree(interrupted / "new.training", tmp_path / "new.training")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_goes_on_in_another_place_with_a_corpus_that_has_moved(place, interrupted):
    shutil.copy(interrupted / "pairs.parquet", "here.parquet")
    given = ["data.source=here.parquet", "warmstart.micro_batch_tokens=1024"]
    assert run_here("warmstart", "-o", "new", "--resume", *given) == 0
    assert (place / "new" / "model.safetensors").is_file()
    assert not (place / "new.training").exists()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("override", ["seed=3", "warmstart.epochs=5", "warmstart.learning_rate=1", "env.window=4"])
def test_a_key_that_may_not_change_is_named(place, capsys, override):
    assert run_here("warmstart", "-o", "new", "--resume", override) == 1
    assert override in said(capsys)


def test_other_pairs_are_refused(place, interrupted, capsys):
    pq.write_table(pq.read_table(interrupted / "pairs.parquet")[:-9], "pairs.parquet")
    before = {path: path.stat().st_mtime_ns for path in (place / "new.training").rglob("*") if path.is_file()}
    assert run_here("warmstart", "-o", "new", "--resume", "data.source=pairs.parquet") == 1
    assert "data.source: " in (message := said(capsys))
    assert "does not hold the pairs" in message
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in before if before[path] != after[path]} <= {place / "new.training" / ".lock"}


def test_a_corpus_that_is_gone_is_named(place, capsys):
    config = place / "new.training" / "config.yaml"
    lost = str(place / "lost.parquet")
    text = config.read_text()
    config.write_text("\n".join(f"  source: {lost}" if "source:" in line else line for line in text.splitlines()))
    assert run_here("warmstart", "-o", "new", "--resume") == 1
    message = said(capsys)
    assert f"{lost} is gone" in message
    assert "partner-rl warmstart --output new --resume data.source=PLACE" in message


@pytest.mark.parametrize("left", [".config.yaml.0123abcd.part", ".lock", "fingerprints.json"])
def test_what_a_full_disk_left_locks_nobody_out(place, left):
    shutil.rmtree("new.training")
    Path("new.training").mkdir()
    (place / "new.training" / left).touch()
    assert run_here("warmstart", "-o", "new", "--resume", "--dry-run") == 1
    assert run_here("warmstart", "--preset", "smoke", "-o", "new", "--dry-run") == 0


def test_an_unfinished_training_is_not_started_over(place, capsys):
    assert run_here("warmstart", *SMALL, "-o", "new") == 1
    assert "go on with `partner-rl warmstart --output new --resume`" in said(capsys)


def test_what_it_began_with_is_noted(interrupted):
    noted = json.loads((interrupted / "new.training" / "fingerprints.json").read_text())
    assert set(noted["inputs"]) == {"data.source", "models.policy"}
    assert noted["settings"]["data.source"] == str(interrupted / "pairs.parquet")
