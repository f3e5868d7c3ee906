from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.run_folder.record import METRICS_FILE, RUN_FILE, SAMPLES_FILE
from launch.tracking.mode import wandb_mode
from launch.tracking.sink import SampleRow
from launch.tracking.tracker import Tracker, is_best
from partner_rl import metric_names
from partner_rl.config.load import load_config
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError
from tests.helpers.waiting import wait_until
from tests.launch.tracking import wandb_log
from tests.launch.tracking.wandb_server import content_of

ROOT = Path(__file__).parents[3]
ROW = SampleRow(
    seeker_post="My exam went badly and I feel like giving up.",
    response_post="Try again next year.",
    rewritten_response="I am sorry, that must hurt. Try again next year.",
    rewards={"total": 1.5, "empathy": 1.2},
)


def make_config(*overrides: str) -> RunConfig:
    return load_config("smoke", ["tracking.wandb=disabled", *overrides])


def open_tracker(run_dir: Path, config: RunConfig, resume_step: int | None = None) -> Tracker:
    return Tracker(run_dir, config, config.tracking, resume_step=resume_step)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def log_steps(tracker: Tracker, first: int, last: int) -> None:
    for step in range(first, last + 1):
        tracker.log(step, {metric_names.REWARD_TOTAL: step / 10}, [ROW])


def test_each_step_is_a_line_at_once(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, make_config("tracking.tensorboard=false"))
    tracker.log(1, {metric_names.REWARD_TOTAL: 0.5, metric_names.TRAIN_LOSS: float("nan")}, [ROW])
    assert records(tmp_path / METRICS_FILE) == [{"step": 1, "reward/total": 0.5, "train/loss": None}]
    assert records(tmp_path / SAMPLES_FILE)[0]["rewritten_response"] == ROW.rewritten_response
    tracker.close(0)
    tracker.close(0)


def test_no_text_is_written_at_zero_sample_rows(tmp_path: Path) -> None:
    config = make_config("tracking.sample_rows=0", "tracking.wandb=offline")
    with open_tracker(tmp_path, config) as tracker:
        tracker.log(1, {metric_names.REWARD_TOTAL: 0.5}, [ROW])
    assert records(tmp_path / METRICS_FILE) == [{"step": 1, "reward/total": 0.5}]
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    _wait_for(log, [metric_names.REWARD_TOTAL])
    assert _files_with(tmp_path, ROW.seeker_post) == []


def test_at_most_sample_rows_are_written(tmp_path: Path) -> None:
    with open_tracker(tmp_path, make_config("tracking.sample_rows=2", "tracking.tensorboard=false")) as tracker:
        tracker.log(1, {}, [ROW] * 5)
    assert len(records(tmp_path / SAMPLES_FILE)) == 2


def test_log_every_says_which_steps_to_log(tmp_path: Path) -> None:
    with open_tracker(tmp_path, make_config("tracking.log_every=3", "tracking.tensorboard=false")) as tracker:
        assert [step for step in range(1, 10) if tracker.wants(step)] == [3, 6, 9]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    config = make_config("tracking.tensorboard=false")
    with open_tracker(tmp_path, config) as tracker:
        log_steps(tracker, 1, 5)
    with (tmp_path / METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "rew')
    with open_tracker(tmp_path, config, resume_step=3) as tracker:
        assert [record["step"] for record in records(tmp_path / METRICS_FILE)] == [1, 2, 3]
        assert [record["step"] for record in records(tmp_path / SAMPLES_FILE)] == [1, 2, 3]
        log_steps(tracker, 4, 4)
    assert [record["step"] for record in records(tmp_path / METRICS_FILE)] == [1, 2, 3, 4]
    assert not list(tmp_path.glob("*.part"))


def test_a_broken_line_inside_the_metrics_is_an_error(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\nbroken\n{"step": 2}\n', encoding="utf-8")
    with pytest.raises(PartnerError, match="line 2 is no JSON"):
        open_tracker(tmp_path, make_config(), resume_step=2)


def test_a_new_run_does_not_write_into_an_old_ones_metrics(tmp_path: Path) -> None:
    config = make_config("tracking.tensorboard=false")
    open_tracker(tmp_path, config).close(0)
    with pytest.raises(PartnerError, match="exists already"):
        open_tracker(tmp_path, config)


def test_tensorboard_holds_the_curves(tmp_path: Path) -> None:
    with open_tracker(tmp_path, make_config()) as tracker:
        log_steps(tracker, 1, 3)
        tracker.log(4, {metric_names.REWARD_TOTAL: float("inf")})
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(metric_names.REWARD_TOTAL.encode()) == 3
    assert ROW.seeker_post.encode() not in content


def test_the_terminal_gets_a_line_without_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_tracker(tmp_path, make_config("tracking.tensorboard=false")) as tracker:
        tracker.log(2, {metric_names.REWARD_TOTAL: 0.25, metric_names.TIME_ITERATION: 1.25}, [ROW])
    printed = capsys.readouterr().err
    assert printed == "iteration 2/2 · reward +0.250 · took 1.2 s\n"


def test_an_offline_wandb_run_holds_curves_config_and_every_row(tmp_path: Path) -> None:
    config = make_config("tracking.wandb=auto", "tracking.tags=[test]")
    with open_tracker(tmp_path, config) as tracker:
        log_steps(tracker, 1, 2)
    identifier = json.loads((tmp_path / RUN_FILE).read_text(encoding="utf-8"))["wandb_run_id"]
    (folder,) = (tmp_path / "wandb").glob(f"offline-run-*-{identifier}")
    increments = sorted(folder.glob("files/media/table/samples_*.table.json"))
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in increments]
    assert tables[0]["columns"] == ["step", "seeker_post", "response_post", "rewritten_response", "total", "empathy"]
    assert [row[0] for table in tables for row in table["data"]] == [1, 2]
    # The curves and the configuration; W&B's own process writes the file out a moment after the run has ended.
    _wait_for(folder / f"run-{identifier}.wandb", [metric_names.REWARD_TOTAL, "samples_per_group"])

    with open_tracker(tmp_path, config, resume_step=1) as tracker:
        log_steps(tracker, 2, 3)
    assert json.loads((tmp_path / RUN_FILE).read_text(encoding="utf-8"))["wandb_run_id"] == identifier
    # W&B names the folder by the second, with a number behind it for a second run in the same one.
    (resumed,) = set((tmp_path / "wandb").glob(f"offline-run-*-{identifier}*")) - {folder}
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in resumed.glob("files/media/table/*.table.json")]
    assert sorted(row[0] for table in tables for row in table["data"]) == [1, 2, 3]


def test_a_run_goes_on_when_wandb_cannot_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config("tracking.wandb=offline", "tracking.project=a/b")
    with caplog.at_level(logging.WARNING, logger="launch.tracking"), open_tracker(tmp_path, config) as tracker:
        log_steps(tracker, 1, 2)
    assert len(records(tmp_path / METRICS_FILE)) == 2
    assert len([record for record in caplog.records if "goes on without it" in record.message]) == 1


@pytest.mark.slow
def test_without_a_key_the_log_is_kept_and_the_command_to_send_it_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING, logger="launch.tracking"):
        with open_tracker(run, make_config("tracking.wandb=online")) as tracker:
            log_steps(tracker, 1, 2)
        assert len([record for record in caplog.records if f"partner-rl runs sync {run}" in record.message]) == 1
    (segment,) = (run / "wandb").glob("offline-run-*")

    def logged() -> int:
        return sum(record.HasField("history") for record in wandb_log.records(segment))

    wait_until(lambda: logged() == 2, f"{segment} does not hold both steps")


@pytest.mark.reported
@pytest.mark.parametrize(
    ("configured", "variables", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": ""}, "offline"),
        ("auto", {"WANDB_API_KEY": " "}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "Offline "}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": ""}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_DISABLED": "true"}, "disabled"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "disabled"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_DISABLED": "false"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_SILENT": "true"}, "online"),
        ("auto", {"WANDB_MODE": "online"}, "online"),
        ("auto", {"WANDB_MODE": "run"}, "online"),
        ("online", {}, "online"),
        ("online", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("online", {"WANDB_API_KEY": "k", "WANDB_MODE": "dryrun"}, "offline"),
        ("online", {"WANDB_API_KEY": "k", "WANDB_DISABLED": "yes"}, "disabled"),
        ("offline", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "offline"),
        ("disabled", {"WANDB_API_KEY": "k", "WANDB_MODE": "online"}, "disabled"),
    ],
)
def test_of_the_configuration_and_w_and_bs_variables_the_most_private_decides(configured, variables, mode, monkeypatch):
    set_wandb_variables(monkeypatch, **variables)
    assert wandb_mode(make_config(f"tracking.wandb={configured}").tracking) == mode


@pytest.mark.reported
@pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "sometimes"), ("WANDB_DISABLED", "maybe")])
def test_a_value_that_nobody_can_know_the_meaning_of_is_refused(variable, value, monkeypatch):
    set_wandb_variables(monkeypatch, **{variable: value})
    for configured in ("auto", "online", "disabled"):
        with pytest.raises(PartnerError, match=f"{variable}={value}: it is one of"):
            wandb_mode(make_config(f"tracking.wandb={configured}").tracking)


def set_wandb_variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """These and no others of W&B's variables."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_where_it_is_disabled_nothing_is_written_for_w_and_b(tmp_path, monkeypatch):
    set_wandb_variables(monkeypatch, WANDB_API_KEY="0" * 40, WANDB_DISABLED="true")
    with open_tracker(tmp_path, make_config("tracking.wandb=auto", "tracking.tensorboard=false")) as tracker:
        log_steps(tracker, 1, 1)
    assert not (tmp_path / "wandb").exists()


WITHOUT_A_HOME = """
import sys
from pathlib import Path
from launch.tracking.tracker import Tracker
from partner_rl.config.load import load_config
from tests.helpers.run_folders import log_steps

config = load_config("smoke", ["tracking.wandb=offline", "tracking.tensorboard=false"])
with Tracker(Path(sys.argv[1]), config, config.tracking) as tracker:
    log_steps(tracker, 1, 1)
"""


@pytest.mark.reported
def test_w_and_bs_process_logs_into_the_run_folder_where_the_home_cannot_be_written(tmp_path):
    environment = {**os.environ, "HOME": "/dev/null/home", "PYTHONPATH": str(ROOT)}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-c", WITHOUT_A_HOME, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_redacted_rows_keep_their_figures_only(tmp_path: Path) -> None:
    config = make_config("tracking.redact=true", "tracking.wandb=offline")
    with open_tracker(tmp_path, config) as tracker:
        tracker.log(1, {metric_names.REWARD_TOTAL: 0.5}, [ROW])
    assert records(tmp_path / SAMPLES_FILE) == [{"step": 1, "total": 1.5, "empathy": 1.2}]
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    _wait_for(log, [metric_names.REWARD_TOTAL])
    assert _files_with(tmp_path, ROW.response_post) == []


def test_checkpoints_are_logged_as_versions_with_aliases(tmp_path: Path) -> None:
    config = make_config("tracking.wandb=offline", "tracking.artifacts=checkpoints", "checkpoint.every=2", "name=r")
    with open_tracker(tmp_path / "run", config) as tracker:
        for step, reward in enumerate([0.1, 0.2, 0.5, 0.6, 0.3, 0.4], start=1):
            tracker.log(step, {metric_names.REWARD_TOTAL: reward})
            folder = tmp_path / f"iteration-{step:06d}"
            if step % 2 == 0:
                folder.mkdir()
                (folder / "weights").write_text(str(step))
                tracker.checkpoint(step, folder)
        tracker.policy(tmp_path / "iteration-000006")
    (segment,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    latest, best = ["latest"], ["best", "latest"]
    expected = [*[("r-checkpoint", aliases) for aliases in (best, best, latest)], ("r-policy", latest)]
    wait_until(lambda: len(wandb_log.artifacts(segment)) == len(expected), f"{segment} does not hold the models")
    assert wandb_log.artifacts(segment) == expected


def test_no_model_is_logged_unless_it_is_asked_for(tmp_path: Path) -> None:
    with open_tracker(tmp_path / "run", make_config("tracking.wandb=offline")) as tracker:
        tracker.checkpoint(2, tmp_path)
        tracker.policy(tmp_path)
    (segment,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert wandb_log.artifacts(segment) == []


def test_the_best_checkpoint_has_the_best_iterations_before_it() -> None:
    rewards = {1: 0.1, 2: 0.9, 3: 0.6, 4: 0.5, 5: None, 6: 0.55}
    assert [is_best(rewards, step, 2) for step in (2, 4, 6)] == [True, True, False]
    assert not is_best({1: 0.5}, 4, 2)
    # A run that was interrupted in between has fewer iterations to be judged by.
    assert is_best({1: 0.1, 2: 0.1, 3: 0.2}, 3, 2)
    # What was logged after the checkpoint does not count.
    assert is_best({1: 0.1, 2: 0.1, 3: 0.9, 4: 0.9}, 2, 2)


def test_leaving_after_an_error_closes_the_files(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, make_config("tracking.tensorboard=false"))
    with pytest.raises(RuntimeError, match="stop"), tracker:
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="closed file"):
        tracker.log(2, {})


def test_metric_names_of_positions() -> None:
    assert metric_names.position_shares(1) == (
        "policy/position/insert_0",
        "policy/position/insert_1",
        "policy/position/replace_0",
        "policy/position/noop",
    )


def _wait_for(path: Path, texts: list[str]) -> None:
    held = path.read_bytes
    wait_until(lambda: all(text.encode() in held() for text in texts), f"{path} does not hold all of {texts}")


def _files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in content_of(path)]
