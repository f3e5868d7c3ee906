"""Homes, temporary folders and variables that a run meets: worked around, or refused before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch import cli
from launch.preflight.check_request import CheckRequest
from launch.preflight.environment import check_environment, environment_problems, require_environment
from launch.preflight.facts import gather
from launch.run_folder.evaluated import EvaluatedRun
from launch.run_folder.folder import RunFolder
from launch.training.evaluation import EvaluationOptions, evaluate
from partner_rl.cluster import local_ray
from partner_rl.cluster.local_ray import make_token, session_folder
from partner_rl.config.load import load_config
from partner_rl.models.store import CACHE_VARIABLE
from partner_rl.types import PartnerError
from tests.helpers.run_folders import write_run

pytestmark = pytest.mark.reported
NOWHERE = "/dev/null/home"
"""A home that nobody can write to, the superuser included."""
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")


@pytest.fixture(autouse=True)
def own_variables(monkeypatch):
    """What the code sets in this process's environment goes with the test."""
    before = dict(os.environ)
    for name in ("TMPDIR", "RAY_TMPDIR", CACHE_VARIABLE, "WANDB_MODE", "WANDB_DISABLED", *TOKEN_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_or_absent_temporary_folder_is_not_rays(variable, tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    for place in (long, Path("/nonexistent/tmp"), Path("/dev/null")):
        monkeypatch.setenv(variable, str(place))
        assert session_folder().parent != place
        assert not list(long.iterdir())
    assert not Path("/nonexistent").exists()


def test_rays_sockets_fit_into_the_session_folder(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/var/tmp")
    assert session_folder() == Path("/var/tmp/ray")
    assert len(f"{session_folder()}{local_ray._IN_SESSION}") <= 107


def test_without_any_place_for_its_session_the_run_does_not_begin(monkeypatch):
    monkeypatch.setattr(local_ray, "_SYSTEM_FOLDERS", (NOWHERE,))
    with pytest.raises(PartnerError, match="set RAY_TMPDIR to a folder of yours"):
        require_environment(load_config("smoke", []))


@pytest.mark.parametrize("home", [NOWHERE, "", None])
def test_the_token_of_who_has_no_home_to_write_to_is_in_the_environment(home, monkeypatch):
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    make_token()
    token = os.environ["RAY_AUTH_TOKEN"]
    assert len(token) == 64
    make_token()
    assert os.environ["RAY_AUTH_TOKEN"] == token


@pytest.mark.parametrize("home", ["", None])
def test_a_command_without_a_home_has_one_all_the_same(home, monkeypatch):
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert Path(os.environ["HOME"]).is_absolute()


def test_models_that_are_there_need_no_writable_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, f"{NOWHERE}/cache")
    (problem,) = environment_problems(load_config("smoke", []))
    assert "random:bert, random:llama cannot be put into /dev/null/home/cache" in problem
    assert f"set {CACHE_VARIABLE}" in problem
    checkpoints = [f"rewards.{name}.checkpoint={tmp_path}" for name in ("empathy", "coherence")]
    weights = ["rewards.fluency.weight=0", "rewards.mutual_information.weight=0"]
    assert not list(
        environment_problems(load_config("smoke", [*checkpoints, *weights, f"warmstart.checkpoint={tmp_path}"]))
    )


def test_the_hubs_cache_is_asked_about_models_of_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", f"{NOWHERE}/hub")
    problems = list(environment_problems(load_config("smoke", ["models.policy=hf:nobody/nothing"])))
    assert problems == [
        "hf:nobody/nothing cannot be put into /dev/null/home/hub, which cannot be written; set HF_HOME to a folder of "
        "yours"
    ]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (CACHE_VARIABLE, NOWHERE, "cannot be written"),
        ("HOME", NOWHERE, "cannot be written"),
        ("WANDB_MODE", "sometimes", "WANDB_MODE=sometimes: it is one of"),
        ("WANDB_DISABLED", "maybe", "WANDB_DISABLED=maybe: it is one of"),
    ],
)
def test_what_is_in_the_way_is_told_by_doctor_and_ends_a_run_before_its_name_is_taken(
    variable, value, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    (found,) = check_environment(gather(load_config("smoke", []), CheckRequest()))
    assert found.status == "problem"
    assert message in f"{found.message}; {found.hint}"
    for command in (["train"], ["quickstart"]):
        assert cli._run([*command, "--preset", "smoke", "name=taken"]) == 1
        printed = capsys.readouterr().err
        assert printed.count("error: ") == 1
        assert message in printed
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_the_home_by_rllib():
    from partner_rl.algorithm.algorithm import RewriteAlgorithm

    algorithm = object.__new__(RewriteAlgorithm)
    algorithm._setup_logdir()
    assert algorithm.logdir == os.devnull


def test_an_evaluation_asks_w_and_bs_variables_before_it_computes(tmp_path, monkeypatch):
    run = RunFolder(write_run(tmp_path / "run"))
    config = load_config(str(run.config_file))
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(PartnerError, match="WANDB_MODE=sometimes: it is one of"):
        evaluate([EvaluatedRun("run", run, config)], EvaluationOptions(), tmp_path / "report")
    assert not (tmp_path / "report").exists()
