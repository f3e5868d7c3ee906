"""Online W&B, against a real server that dies and comes back."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import psutil
import pytest

from launch.run_folder.record import METRICS_FILE, RUN_FILE
from launch.tracking.sink import SampleRow
from launch.tracking.tracker import Tracker
from launch.tracking.uploading import unsent
from partner_rl import metric_names
from partner_rl.config.load import load_config, save_config
from tests.helpers.command_line import COMMAND, ROOT, environment, partner
from tests.helpers.ports import free_port
from tests.helpers.waiting import wait_until
from tests.launch.tracking.wandb_server import API_KEY, WandbServer

POST = "My exam went badly and I feel like giving up."
NOTICEABLE_S = 0.5
TIMEOUT_S = 300.0
ONLINE = ["tracking.wandb=online", "tracking.tensorboard=false", "checkpoint.every=2", "tracking.system_interval_s=0.2"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = WandbServer(tmp_path_factory.mktemp("server"), free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def client(server, monkeypatch):
    """The server, running, with this process and its children as its clients."""
    if not server.is_running:
        # A test that failed may have left it killed.
        server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


def tracker_in(run_dir: Path, *overrides: str, resume_step: int | None = None) -> Tracker:
    config = load_config("smoke", [*ONLINE, *overrides])
    return Tracker(run_dir, config, config.tracking, resume_step=resume_step)


def log_step(tracker: Tracker, step: int) -> float:
    """Logs a step; returns the seconds that it took."""
    rows = [SampleRow(f"{POST} {step}", "Try again.", "I am sorry. Try again.", {"total": step / 10})]
    started = time.perf_counter()
    tracker.log(step, {metric_names.REWARD_TOTAL: step / 10}, rows)
    return time.perf_counter() - started


def wandb_id(run_dir: Path) -> str:
    return json.loads((run_dir / RUN_FILE).read_text())["wandb_run_id"]


def steps_at(server: WandbServer, identifier: str) -> set[float]:
    return set(server.history(identifier).get("step", []))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_server_that_dies_and_comes_back_gets_everything_and_slows_nothing(tmp_path, client, caplog):
    run_dir, checkpoint, export = tmp_path / "run", tmp_path / "iteration-000002", tmp_path / "export"
    for folder, content in ((checkpoint / "inner", b"some weights"), (export, b"final weights")):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(content)
    about = ["name=r1", "tracking.group=g", "tracking.tags=[a,b]", "tracking.notes=why"]
    wait = f"tracking.upload_wait_s={TIMEOUT_S}"
    with tracker_in(run_dir, *about, "tracking.artifacts=checkpoints", wait) as tracker:
        # The first step alone loads what the later ones use.
        log_step(tracker, 1)
        usual = [log_step(tracker, step) for step in range(2, 5)]
        identifier = wandb_id(run_dir)
        there = {1.0, 2.0, 3.0, 4.0}
        wait_until(lambda: steps_at(client, identifier) == there, "the first steps do not arrive during the run")
        client.kill()
        seconds = [log_step(tracker, step) for step in range(5, 9)]
        started = time.perf_counter()
        tracker.checkpoint(2, checkpoint)
        tracker.alert("Guard x", "Iteration 2")
        tracker.sync()
        seconds.append(time.perf_counter() - started)
        (checkpoint / "inner" / "weights").unlink()
        client.start()
        tracker.policy(export)
        log_step(tracker, 9)
    # One of them may be slow because the machine was; with a client that waits for the server all are. On a machine
    # that has other work to do, steps take longer with the server, too.
    assert median(seconds) < NOTICEABLE_S + 10 * median(usual)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert unsent(run_dir) == []
    assert not (run_dir / "wandb" / "models").exists()
    assert steps_at(client, identifier) == set(map(float, range(1, 10)))
    assert {row[0] for row in client.table_rows(identifier, "samples")} == set(range(1, 10))
    assert any(key.startswith("system/") and key.endswith("/cpu_percent") for key in client.history(identifier))
    found = client.run(identifier)
    assert (found["display_name"], found["tags"], found["notes"]) == ("r1", ["a", "b"], "why")
    assert found["config"]["algorithm"]["value"]["iterations"] == 2
    provenance = found["config"]["provenance"]["value"]
    assert len(provenance["commit"]) == 40
    assert provenance["dirty"] in (True, False)
    assert provenance["packages"]["ray"].startswith("2.")
    assert client.models(identifier) == {"r1-checkpoint", "r1-policy"}
    assert not [path for path in run_dir.rglob("*") if path.is_file() and API_KEY.encode() in path.read_bytes()]


KILLED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from launch.tracking.uploading import segments
from tests.launch.tracking import wandb_log
from tests.launch.tracking.test_online import log_step, tracker_in
run_dir = Path(sys.argv[1])
tracker = tracker_in(run_dir, resume_step=2)
log_step(tracker, 3)
# W&B's own process writes what was logged a moment later; what a kill comes before is lost.
while not any(record.HasField("history") for record in wandb_log.records(segments(run_dir)[-1].folder)):
    time.sleep(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_was_not_sent_is_sent_later_be_it_of_a_killed_process(tmp_path, client, caplog):
    run_dir = tmp_path / "run"
    save_config(load_config("smoke", ONLINE), run_dir / "config.yaml")
    client.kill()
    tracker = tracker_in(run_dir, "tracking.upload_wait_s=0.1")
    log_step(tracker, 1)
    log_step(tracker, 2)
    started = time.monotonic()
    tracker.close(0)
    # A client that waits for the server goes on for hours.
    assert time.monotonic() - started < 120
    assert f"partner-rl runs sync {run_dir}" in " ".join(caplog.text.split())
    identifier = wandb_id(run_dir)

    command = [sys.executable, "-c", KILLED, str(run_dir), str(ROOT)]
    process = subprocess.run(command, cwd=ROOT, check=False, timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not processes_of(run_dir), "a killed run leaves processes behind")
    assert wandb_id(run_dir) == identifier
    assert len(unsent(run_dir)) == 2

    refused = partner("runs", "sync", run_dir, folder=tmp_path)
    assert refused.returncode == 1
    assert "does not answer" in refused.stderr
    assert "Traceback" not in refused.stderr
    client.start()
    result = partner("runs", "sync", run_dir, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "sent 2 parts" in result.stdout
    assert steps_at(client, identifier) == {1.0, 2.0, 3.0}
    assert {row[0] for row in client.table_rows(identifier, "samples")} == {1, 2, 3}
    again = partner("runs", "sync", run_dir, folder=tmp_path)
    assert "nothing to send" in again.stdout


def processes_of(run_dir: Path) -> list[psutil.Process]:
    return [
        p for p in psutil.process_iter(["cmdline"]) if any(str(run_dir) in word for word in p.info["cmdline"] or ())
    ]


@pytest.mark.slow
def test_texts_that_are_redacted_do_not_reach_the_server(tmp_path, client):
    run_dir = tmp_path / "run"
    secret = "a sentence that nobody else may read"
    with tracker_in(run_dir, "tracking.redact=true", f"tracking.upload_wait_s={TIMEOUT_S}") as tracker:
        tracker.log(1, {metric_names.REWARD_TOTAL: 1.0}, [SampleRow(secret, secret, secret, {"total": 0.25})])
    identifier = wandb_id(run_dir)
    assert unsent(run_dir) == []
    assert client.table_rows(identifier, "samples") == [[1, 0.25]]
    assert not client.holds(secret.encode())


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_training_goes_on_without_the_server_and_is_sent_later(tmp_path, client):
    arguments = ["--preset", "smoke", "name=r2", "algorithm.iterations=4", "tracking.wandb=online"]
    settings = [
        "tracking.artifacts=final",
        "tracking.upload_wait_s=1",
        "tracking.tensorboard=false",
        "checkpoint.every=2",
        "rewards.empathy.weight=0",
        "rewards.coherence.weight=0",
        "rewards.mutual_information.weight=0",
    ]
    run_dir = tmp_path / "runs" / "r2"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "train", *arguments, *settings], cwd=tmp_path, env=environment(), stdout=log, stderr=log
        )
        try:
            metrics = run_dir / METRICS_FILE
            wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, "no iteration is logged")
            client.kill()
            assert process.wait(600) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()
    assert len(metrics.read_text().splitlines()) == 4
    assert unsent(run_dir)
    client.start()
    result = partner("runs", "sync", run_dir, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    identifier = wandb_id(run_dir)
    assert steps_at(client, identifier) == {1.0, 2.0, 3.0, 4.0}
    assert {row[0] for row in client.table_rows(identifier, "samples")} == {1, 2, 3, 4}
    assert client.models(identifier) == {"r2-policy"}
    # The server says of every new artifact that it has its files already, and so gets none of them.
    assert client.run(identifier)["config"]["seed"]["value"] == 0
