"""Listing and comparing runs, and what a run says of itself in `run.json`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.commands.runs import changed_keys
from launch.run_folder.folder import RunFolder
from launch.run_folder.provenance import COMMIT_VARIABLE, code_version, provenance
from launch.run_folder.record import RUN_FILE, read_record, recorded, run_state, update_record
from partner_rl.types import PartnerError
from tests.helpers.command_line import ROOT, partner
from tests.helpers.run_folders import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Three runs, one of them inside of a sweep."""
    folder = tmp_path_factory.mktemp("some") / "runs"
    write_run(folder / "first")
    write_run(folder / "second", "algorithm.learning_rate=0.001", "tracking.tags=[x]", reward=0.8)
    write_run(folder / "sweep" / "trials" / "third", "rewards.empathy.weight=2.5", steps=3)
    (folder / "notes").mkdir()
    return folder


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def line_of(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line.rstrip()


def test_runs_are_listed_with_state_progress_reward_and_what_is_special(runs, wide):
    result = partner("runs", runs, folder=runs)
    assert result.returncode == 0, result.stderr
    first, second = line_of(result.stdout, "first"), line_of(result.stdout, "second")
    third = line_of(result.stdout, "sweep/trials/third")
    assert first.split()[:4] == ["first", "finished", "12/20", "+0.050"]
    assert second.split()[:4] == ["second", "finished", "12/20", "+0.350"]
    assert 'algorithm.learning_rate=0.001, tracking.tags=["x"]' in second
    assert third.split()[2] == "3/20"
    assert third.endswith("rewards.empathy.weight=2.5")


def test_a_list_for_programs(runs):
    result = partner("runs", "list", runs, "--json", folder=runs)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(run["run"]).name for run in found] == ["first", "second", "third"]
    assert found[2]["reward"] == pytest.approx(0.4)
    assert found[2]["changed"] == {"rewards.empathy.weight": 2.5}


def test_a_run_of_another_version_is_listed_all_the_same(tmp_path, wide):
    run = write_run(tmp_path / "runs" / "old")
    (run / "config.yaml").write_text("a_key_that_is_gone: 1\n")
    result = partner("runs", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "its configuration is of another version" in line_of(result.stdout, "old")


def test_names_and_values_in_brackets_are_shown_as_they_are(tmp_path, wide):
    for name in ("a", "b", "[red]c"):
        write_run(tmp_path / "runs" / name, *(["tracking.notes='[/x] [bold]so'"] if name == "[red]c" else []), steps=1)
    listed = partner("runs", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert line_of(listed.stdout, "[red]c").endswith("tracking.notes=[/x] [bold]so")
    compared = partner("runs", "compare", "runs/a", "runs/[red]c", folder=tmp_path)
    assert line_of(compared.stdout, "tracking.notes").endswith("[/x] [bold]so")


def test_a_damaged_run_does_not_hide_the_others(tmp_path, wide):
    write_run(tmp_path / "runs" / "good", steps=1)
    (write_run(tmp_path / "runs" / "bad", steps=1) / RUN_FILE).write_text("{")
    result = partner("runs", folder=tmp_path)
    assert result.returncode == 0
    assert line_of(result.stdout, "good").split()[1] == "finished"
    assert result.stderr.startswith("left out: ")
    assert "bad/run.json is damaged" in result.stderr


def test_nothing_is_sent_while_somebody_trains_there(tmp_path):
    folder = RunFolder(write_run(tmp_path / "run", steps=1))
    with folder.resumable():
        result = partner("runs", "sync", folder.path, folder=tmp_path)
    assert result.returncode == 1
    assert "another process is training in" in result.stderr
    # A training on another machine that was killed there has left no word of it, but no lock either.
    update_record(folder.path, {"state": "running", "host": "elsewhere"})
    assert "nothing to send" in partner("runs", "sync", folder.path, folder=tmp_path).stdout


def test_errors_are_one_line(tmp_path):
    missing = partner("runs", "nowhere", folder=tmp_path)
    assert missing.returncode == 1
    assert "there is no folder nowhere" in missing.stderr
    compared = partner("runs", "compare", ".", ".", folder=tmp_path)
    assert compared.returncode == 1
    assert "is no run folder" in compared.stderr
    assert "Traceback" not in missing.stderr + compared.stderr


def test_two_runs_are_compared_side_by_side(runs, wide):
    result = partner("runs", "compare", "first", "second", folder=runs)
    assert result.returncode == 0, result.stderr
    assert line_of(result.stdout, "algorithm.learning_rate").split()[-1] == "0.001"
    assert "env.window" not in result.stdout
    assert line_of(result.stdout, "reward/total").split() == ["reward/total", "0.05", "0.35", "+0.3"]
    assert line_of(result.stdout, "evaluation/rl/perplexity").split()[1:] == ["20.5", "20.8", "+0.3"]
    assert "time/generate" not in result.stdout
    everything = partner("runs", "compare", "first", "second", "--all", folder=runs)
    assert line_of(everything.stdout, "time/generate").split()[1:] == ["6", "6", "+0"]


def test_the_keys_of_a_run_that_are_not_those_of_most():
    configs = [{"a": 1, "b": [1]}, {"a": 1, "b": [2]}, {"a": 2, "b": [1], "name": "x"}, {}]
    assert changed_keys(configs) == [{}, {"b": [2]}, {"a": 2}, {}]


def test_the_record_says_how_a_run_ended(tmp_path):
    with recorded(tmp_path):
        assert run_state(read_record(tmp_path)) == "running"
    assert run_state(read_record(tmp_path)) == "finished"
    with pytest.raises(KeyboardInterrupt), recorded(tmp_path):
        raise KeyboardInterrupt
    assert run_state(read_record(tmp_path)) == "interrupted"
    with pytest.raises(PartnerError), recorded(tmp_path):
        raise PartnerError("no disk is left")
    assert read_record(tmp_path)["reason"] == "no disk is left"
    with pytest.raises(ValueError, match="quotes a post"), recorded(tmp_path):
        raise ValueError("a message that quotes a post")
    assert run_state(read_record(tmp_path)) == "failed"
    assert read_record(tmp_path)["reason"] == "ValueError"
    assert run_state({}) == "new"


def test_a_killed_run_does_not_count_as_running(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom launch.run_folder.record import recorded\n"
        "with recorded(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    record = read_record(tmp_path)
    assert record["state"] == "running"
    assert run_state(record) == "killed"
    # Another process that got the same number since is not the run.
    assert run_state(record | {"pid": os.getpid()}) == "killed"
    # What happens on another machine cannot be known here.
    assert run_state(record | {"host": "elsewhere"}) == "running"


def test_a_record_keeps_what_others_wrote_and_a_damaged_one_is_named(tmp_path):
    update_record(tmp_path, {"wandb_run_id": "abc"})
    with recorded(tmp_path):
        pass
    assert read_record(tmp_path)["wandb_run_id"] == "abc"
    assert read_record(tmp_path)["provenance"] == provenance().as_json()
    (tmp_path / RUN_FILE).write_text("{")
    with pytest.raises(PartnerError, match="is damaged"):
        read_record(tmp_path)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    result = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_commit_and_changes_of_the_code(tmp_path, monkeypatch):
    source = tmp_path / "code.py"
    source.write_text("a = 1\n")
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    # A git that takes longer counts as none.
    monkeypatch.setattr("launch.run_folder.provenance._GIT_TIMEOUT_S", 300.0)
    assert code_version(source) == (None, None)
    git(tmp_path, "init", "-q")
    # Installed below a repository, but not a part of it.
    assert code_version(source) == (None, None)
    monkeypatch.setenv(COMMIT_VARIABLE, "abc-dirty")
    assert code_version(source) == ("abc", True)
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert code_version(source) == (commit, False)
    source.write_text("a = 2\n")
    assert code_version(source) == (commit, True)


def test_the_versions_are_those_of_what_is_required():
    versions = provenance().packages
    assert {"partner-rl", "ray", "torch", "wandb"} <= versions.keys()
    assert "pytest" not in versions
