"""What a job takes along, what it is told, and how its end is read; without a cluster."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.commands.job_entry import check_storage
from launch.commands.jobs import command_of
from launch.commands.submit import Job
from launch.commands.submit_arguments import complete
from launch.jobs.client import ADDRESS_VARIABLE, connect, one_line_errors
from launch.jobs.follow import exit_status
from launch.jobs.variables import ALLOWED, check_arguments, variables_to_send
from launch.jobs.working_dir import EXCLUDED, check_tree
from partner_rl.types import PartnerError
from tests.helpers.command_line import ROOT, partner

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port where nobody answers, and nobody can begin to: it is taken by a socket that does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def job(**changes: object) -> Job:
    settings = {
        "job_id": "one",
        "arguments": ("train", "--preset", "smoke", "name=a b"),
        "storage": "/mnt/partner-rl",
        "variables": {"WANDB_API_KEY": KEY, "MY_SETTING": "value-of-mine"},
        "working_dir": ROOT,
        "excludes": EXCLUDED,
        "node": None,
        "gpus": 0.0,
        "commit": "abc-dirty",
    }
    return Job(**settings | changes)


def test_only_listed_and_named_variables_go_along():
    environment = {"WANDB_API_KEY": KEY, "HF_TOKEN": "", "HOME": "/home/me", "MINE": "1", "AWS_SECRET_ACCESS_KEY": "x"}
    assert variables_to_send(environment, []) == {"WANDB_API_KEY": KEY}
    assert variables_to_send(environment, ["MINE"]) == {"WANDB_API_KEY": KEY, "MINE": "1"}
    assert not any(name.startswith(("AWS_", "RAY_")) for name in ALLOWED)


@pytest.mark.parametrize(("name", "message"), [("ABSENT", "--env ABSENT: no such"), ("RAY_AUTH_TOKEN", "Ray's own")])
def test_variables_that_cannot_go_along_are_refused(name, message):
    with pytest.raises(PartnerError, match=message):
        variables_to_send({"RAY_AUTH_TOKEN": "x"}, [name])


def test_a_key_on_the_command_line_is_refused_without_being_shown():
    with pytest.raises(PartnerError, match="WANDB_API_KEY") as error:
        check_arguments(["train", f"tracking.entity={KEY}"], {"WANDB_API_KEY": KEY})
    assert KEY not in str(error.value)
    check_arguments(["train", "name=run"], {"WANDB_API_KEY": KEY, "WANDB_PROJECT": "run"})


def test_the_job_shows_names_of_variables_and_no_values():
    shown = json.dumps([job().metadata, job().runtime_env, job().entrypoint("package.zip")])
    assert "WANDB_API_KEY" in shown
    assert KEY not in shown
    assert "value-of-mine" not in shown


def test_the_job_knows_its_commit():
    assert job().runtime_env["env_vars"]["PARTNER_RL_COMMIT"] == "abc-dirty"
    assert "PARTNER_RL_COMMIT" not in job(commit=None).runtime_env["env_vars"]


@pytest.mark.parametrize("name", ["a/b", "a b", "../a", "-a", "", "a" * 101])
def test_a_name_that_is_no_part_of_an_address_is_refused(name):
    result = CliRunner().invoke(app, ["submit", f"--name={name}", "--dry-run", "--", "models", "list"])
    assert "use letters, digits" in str(result.exception)


def test_lists_in_commands_are_shown_whole():
    shown = CliRunner().invoke(app, ["submit", "--dry-run", "--", "train", "--preset", "smoke", "tracking.tags=[a,b]"])
    assert "tracking.tags=[a,b]" in shown.output


def test_the_entrypoint_keeps_arguments_whole():
    words = shlex.split(job().entrypoint("package.zip"))
    assert words[words.index("--") + 1 :] == list(job().arguments)
    assert words[words.index("--secrets") + 1] == "package.zip"
    assert "--secrets" not in job().entrypoint(None)


def test_a_run_goes_to_the_storage_and_joins_the_jobs_cluster():
    assert complete(["train", "--preset", "smoke", "name=a"], "/mnt/x", ROOT) == (
        *("train", "--preset", "smoke", "name=a"),
        *("runs_dir=/mnt/x/runs", "resources.address=auto"),
    )
    given = ["train", "--preset", "cluster", "runs_dir=/data/runs"]
    assert complete(given, "/mnt/x", ROOT) == tuple(given)
    resumed = ["train", "--resume", "/mnt/x/runs/a"]
    assert complete(resumed, "/mnt/x", ROOT) == tuple(resumed)
    assert complete(["models", "list"], "/mnt/x", ROOT) == ("models", "list")


def test_a_sweep_and_an_ablation_go_to_the_storage_too():
    swept = ["sweep", "reward_weights", "seed=1"]
    assert complete(swept, "/mnt/x", ROOT) == (
        *swept,
        *("--output", "/mnt/x/runs/sweep-reward_weights", "resources.address=auto"),
    )
    going_on = ["sweep", "--resume", "/mnt/x/runs/sweep-a"]
    assert complete(going_on, "/mnt/x", ROOT) == tuple(going_on)
    given = ["ablate", "--preset", "cluster", "--output", "/mnt/x/ablation"]
    assert complete(given, "/mnt/x", ROOT) == tuple(given)
    assert complete(given[:3], "/mnt/x", ROOT)[3:] == ("--output", "/mnt/x/runs/ablation-cluster")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--resume", "runs/a"], "a job's directory holds no runs; .*: /mnt/x/runs/a"),
        (["sweep", "--resume", "runs/a"], "a job's directory holds no runs; .*: /mnt/x/runs/a"),
        (["sweep", "reward_weights", "-o", "mine"], "would be gone with the job; .*: /mnt/x/mine"),
        (["warmstart", "--output", "warm"], "would be gone with the job; .*: /mnt/x/warm"),
        (["rewards", "train", "empathy", "--data", "x", "--output", "judge"], "would be gone with the job"),
        (["data", "generate", "corpus"], "would be gone with the job"),
    ],
)
def test_what_would_be_gone_with_the_job_is_refused(arguments, message):
    with pytest.raises(PartnerError, match=message):
        complete(arguments, "/mnt/x", ROOT)


def test_a_configuration_that_stays_behind_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(PartnerError, match="would stay behind"):
        complete(["train", "--config", str(tmp_path / "mine.yaml")], "/mnt/x", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert complete(["train", "--config", "mine.yaml"], "/mnt/x", tmp_path)[:3] == ("train", "--config", "mine.yaml")
    with pytest.raises(PartnerError, match="would stay behind"):
        complete(["train", "--config", "mine.yaml"], "/mnt/x", ROOT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train"),
        (["jobs", "list"], "'jobs' cannot be submitted"),
        (["train", "algorithm.iteratons=3"], "iterations"),
        (["train", "--preset", "smoke", "rewards.num_cpus=many"], "rewards.num_cpus"),
        (["sweep", "reward_weihgts"], "reward_weihgts"),
        (["sweep"], "give a spec"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_sent(arguments, message):
    with pytest.raises(PartnerError, match=message):
        complete(arguments, "/mnt/x", ROOT)


def test_the_tree_leaves_data_models_runs_and_secrets_behind(tmp_path):
    taken = ["partner_rl/data/readers.py", "partner_rl/models/store.py", "partner_rl/data/sample/posts.csv", "my.yaml"]
    left = [
        "data/posts.csv", "models/x/model.safetensors", "runs/a/metrics.jsonl", ".git/config", ".venv/lib/x.py",
        "partner_rl/__pycache__/x.pyc", "corpus.parquet", ".env", ".mypy_cache/x", "wandb/run/log", "keys/host.pem",
    ]  # fmt: skip
    for name in [*taken, *left]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" if name in taken else "x" * 1000)
    assert check_tree(tmp_path, EXCLUDED) == len(taken)
    assert check_tree(tmp_path, [*EXCLUDED, "*.yaml"]) == len(taken) - 1


def test_this_repository_fits():
    assert 10**6 < check_tree(ROOT, EXCLUDED) < 20 * 10**6


def test_a_tree_that_a_cluster_would_not_take_is_refused_at_once(tmp_path):
    (tmp_path / "notes").mkdir()
    with (tmp_path / "notes" / "large").open("wb") as file:
        file.truncate(501 * 2**20)
    (tmp_path / "code.py").write_text("x")
    with pytest.raises(PartnerError, match=r"501\.0 MiB of at most 500\.0 MiB \(notes 501\.0 MiB, .*--exclude"):
        check_tree(tmp_path, EXCLUDED)
    assert check_tree(tmp_path, [*EXCLUDED, "/notes"]) == 1


def test_a_missing_tree_is_one_line(tmp_path):
    with pytest.raises(PartnerError, match="is no folder"):
        check_tree(tmp_path / "absent", EXCLUDED)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", None, 1), ("STOPPED", None, 130), ("STOPPED", -9, 130)],
)
def test_a_jobs_end_is_an_exit_status(status, code, expected):
    assert exit_status(status, code) == expected


def test_a_job_is_listed_as_it_was_typed():
    class Details:
        entrypoint = job().entrypoint("package.zip")

    assert command_of(Details()) == "partner-rl train --preset smoke 'name=a b'"
    Details.entrypoint = "sleep 3"
    assert command_of(Details()) == "sleep 3"


def test_storage_that_cannot_be_written_is_named(tmp_path):
    check_storage(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(PartnerError, match="--storage"):
        check_storage(tmp_path / "file" / "folder")


@pytest.mark.parametrize("arguments", [("jobs", "list"), ("submit", "--", "models", "list")])
def test_no_cluster_at_the_address_is_one_line(arguments, dead_port, tmp_path):
    address = ("--address", f"http://127.0.0.1:{dead_port}")
    command = [*arguments, *address] if arguments[0] == "jobs" else ["submit", *address, *arguments[1:]]
    result = partner(*command, folder=tmp_path)
    assert result.returncode == 1
    assert "no Ray cluster answers at http://127.0.0.1:" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("address", ["cluster", "127.0.0.1:{}", "http://127.0.0.1:{}"])
def test_an_address_where_nobody_answers_is_refused_at_once(address, dead_port, monkeypatch):
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    with pytest.raises(PartnerError, match="is no address" if address == "cluster" else "no Ray cluster answers at"):
        connect(address.format(dead_port))


def test_of_a_traceback_the_reason_is_shown():
    said = "status code 400: Traceback (most recent call last):\n  File x\nValueError: Job a already exists.\n."
    with pytest.raises(PartnerError, match="refused: ValueError: Job a already exists"), one_line_errors("here"):
        raise RuntimeError(said)


def test_every_command_has_help():
    for words in (["submit"], ["jobs"], *(["jobs", name] for name in ("list", "status", "logs", "stop"))):
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0


def test_patterns_are_of_folders_that_exist_only_beside_the_code():
    top = {pattern[1:] for pattern in EXCLUDED if pattern.startswith("/")}
    assert not top & {path.name for path in Path(ROOT).iterdir() if (path / "__init__.py").exists()}
