"""Jobs on a real cluster of four raylets with token authentication.

Who gets in, what is seen, where actors run, and what happens when nodes die.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from launch.run_folder.provenance import provenance
from launch.run_folder.record import read_record, run_state
from tests.cluster.nodes import LocalCluster
from tests.helpers.command_line import COMMAND, ROOT
from tests.helpers.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

# Made up anew, as this file goes along with the jobs.
KEY = secrets.token_hex(20)
KINDS = {"learner": "learners", "runner": "env_runners", "reward": "rewards"}
PLACEMENT = [f"resources.placement.{actors}={kind}" for kind, actors in KINDS.items()]
ITERATIONS = 30
# Every actor is a process that imports torch, and is started again with its node.
ONE_REWARD = [f"rewards.{name}.weight=0" for name in ("empathy", "coherence", "mutual_information")]


def client(cluster: LocalCluster, *words: object) -> list[object]:
    """A command for this cluster: `jobs …` or `submit …`."""
    count = 2 if words[0] == "jobs" else 1
    return [*words[:count], "--address", cluster.address, *words[count:]]


def steps(run: Path) -> list[int]:
    metrics = run / "metrics.jsonl"
    # Without a last line that is just being written.
    lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
    return [json.loads(line)["step"] for line in lines]


def kinds_of_actors(cluster: LocalCluster) -> dict[str, set[str]]:
    """Class of actors → kinds of the nodes that they run on."""
    nodes = {
        n["node_id"]: next((k for k in KINDS if k in n["resources_total"]), "head") for n in cluster.listed("nodes")
    }
    found: dict[str, set[str]] = {}
    for actor in cluster.listed("actors"):
        if actor["state"] == "ALIVE":
            found.setdefault(actor["class_name"].rpartition(".")[2], set()).add(nodes[actor["node_id"]])
    return found


@pytest.mark.parametrize("has_wrong_token", [False, True])
def test_clients_without_the_token_are_turned_away(cluster, tmp_path, has_wrong_token):
    (tmp_path / "token").write_text("0" * 64)
    stranger = {k: v for k, v in cluster.environment.items() if not k.startswith("RAY_AUTH")}
    if has_wrong_token:
        stranger |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    result = cluster.partner(*client(cluster, "jobs", "list"), environment=stranger)
    assert result.returncode == 1
    wants = "wants another token" if has_wrong_token else "wants a token"
    assert result.stderr == (
        f"error: the cluster at {cluster.address} {wants}: export RAY_AUTH_MODE=token, with the token in "
        "~/.ray/auth_token or $RAY_AUTH_TOKEN_PATH\n"
    )
    join = f"import ray; ray.init(address='127.0.0.1:{cluster.port}')"
    joined = subprocess.run([sys.executable, "-c", join], env=stranger, capture_output=True, text=True)
    assert joined.returncode != 0
    assert "auth" in joined.stderr.lower()


def test_keys_reach_the_driver_and_nobody_else(cluster):
    # The driver shows the one variable; nobody may show the other.
    handed_over = cluster.folder / "handed-over"
    mine = {**cluster.environment, "WANDB_API_KEY": KEY, "PARTNER_RL_CACHE": str(handed_over)}
    submission = client(
        cluster, "submit", "--storage", cluster.folder / "storage", "--name", "keys", "--env", "PARTNER_RL_CACHE"
    )
    result = cluster.partner(*submission, "--", "models", "list", environment=mine)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Models in {handed_over}" in result.stdout

    token = cluster.token_file.read_text()
    raw = requests.get(f"{cluster.address}/api/jobs/", headers={"Authorization": f"Bearer {token}"}, timeout=240).text
    status = cluster.partner(*client(cluster, "jobs", "status", "keys"))
    assert "WANDB_API_KEY" in status.stdout
    assert KEY not in raw + status.stdout + result.stdout + result.stderr
    # All logs of all nodes, and whatever else Ray writes.
    for path in files(cluster.folder):
        # Ray may have removed it since.
        with suppress(FileNotFoundError):
            assert KEY.encode() not in path.read_bytes(), path

    (entrypoint,) = [job["entrypoint"] for job in json.loads(raw) if job["submission_id"] == "keys"]
    package = next(word for word in entrypoint.split() if word.endswith(".zip"))
    again = f"from launch.jobs.secrets import take_variables; print(take_variables({package!r}))"
    late = {**cluster.environment, "RAY_ADDRESS": f"127.0.0.1:{cluster.port}"}
    taken = subprocess.run([sys.executable, "-c", again], env=late, cwd=ROOT, capture_output=True, text=True)
    assert "taken out before" in taken.stderr


def test_a_job_that_fails_ends_the_command_with_its_status_and_its_line(cluster):
    submission = client(cluster, "submit", "--storage", cluster.folder / "storage", "--name", "failing")
    result = cluster.partner(*submission, "--", "runs", "/nowhere")
    assert result.returncode == 1
    assert "error: there is no folder /nowhere" in result.stdout
    assert "job failing ended with status 1" in result.stderr
    listed = cluster.partner(*client(cluster, "jobs", "list"), environment={**cluster.environment, "COLUMNS": "160"})
    assert "failed (status 1)" in listed.stdout
    taken = cluster.partner(*submission, "--", "models", "list")
    assert taken.returncode == 1
    assert "already exists" in taken.stderr
    assert len(taken.stderr.splitlines()) == 1


def test_unknown_jobs_are_one_line(cluster):
    for command in ("status", "logs", "stop"):
        result = cluster.partner(*client(cluster, "jobs", command, "absent"))
        assert result.returncode == 1
        assert result.stderr.startswith("error: there is no job absent on the cluster")
        assert len(result.stderr.splitlines()) == 1


def test_training_is_spread_over_nodes_and_survives_their_death(cluster):
    run = cluster.folder / "storage" / "runs" / "spread"
    submission = client(cluster, "submit", "--no-wait", "--storage", cluster.folder / "storage", "--", "train")
    settings = [
        f"algorithm.iterations={ITERATIONS}", "algorithm.num_env_runners=2", "algorithm.num_learners=2",
        "rewards.num_cpus=0.25", "resources.wait_for_nodes_s=60", *PLACEMENT, *ONE_REWARD,
    ]  # fmt: skip
    submitted = cluster.partner(*submission, "--preset", "smoke", "name=spread", *settings)
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    # To ask for the job takes seconds, in which the training might go on to its end.
    wait_until(lambda: len(steps(run)) >= 2 or run_state(read_record(run)) not in ("new", "running"), "no iterations")

    with standing_still(int(read_record(run)["pid"])):
        before = len(steps(run))
        placed = kinds_of_actors(cluster)
        learners = "_WrappedExecutable"
        assert {name: placed.get(name) for name in ("ScorerActor", "RewriteEnvRunner", learners)} == {
            "ScorerActor": {"reward"}, "RewriteEnvRunner": {"runner"}, learners: {"learner"},
        }  # fmt: skip
        for kind in KINDS:
            cluster.kill_node(kind)
    assert 2 <= before < ITERATIONS
    cluster.start_nodes(list(KINDS))
    followed = cluster.partner(*client(cluster, "jobs", "logs", job, "--follow"), timeout=900)
    assert followed.returncode == 0, followed.stdout[-5000:] + followed.stderr
    assert "learners were lost: starting new ones" in followed.stdout
    assert steps(run) == list(range(1, ITERATIONS + 1))
    assert (run / "export" / "model.safetensors").exists()
    # The code went along without its history.
    assert read_record(run)["provenance"]["commit"] == provenance().commit


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """A process is stopped for the time of a block, so that what is found there is what is there then."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def files(folder: Path) -> Iterator[Path]:
    """All files in a folder and in those in it, while others remove some."""
    for place, _, names in os.walk(folder):
        # Sockets cannot be read.
        yield from (path for name in names if (path := Path(place, name)).is_file())


def test_a_job_is_left_alone_by_ctrl_c_and_saves_when_it_is_stopped(cluster):
    run = cluster.folder / "storage" / "runs" / "stopped"
    submission = client(cluster, "submit", "--storage", cluster.folder / "storage", "--name", "stopped", "--", "train")
    settings = ["--preset", "smoke", "name=stopped", "algorithm.iterations=1000000", "checkpoint.every=1000000"]
    waiting = subprocess.Popen(
        [*COMMAND, *map(str, [*submission, *settings, *ONE_REWARD, "rewards.num_cpus=0.25"])],
        env=cluster.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert waiting.stdout is not None
    assert any("iteration 2/1000000" in line for line in iter(waiting.stdout.readline, ""))
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=400)
    assert waiting.returncode == 130
    assert "detached; the job goes on. Follow it with: partner-rl jobs logs stopped --follow" in said

    status = cluster.partner(*client(cluster, "jobs", "status", "stopped"))
    assert (status.returncode, "running" in status.stdout) == (0, True)
    assert cluster.partner(*client(cluster, "jobs", "stop", "stopped")).returncode == 0
    ended = cluster.partner(*client(cluster, "jobs", "logs", "stopped", "--follow"), timeout=400)
    assert ended.returncode == 130
    assert f"partner-rl train --resume {run}" in ended.stdout
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"iteration-{steps(run)[-1]:06d}"]
    assert "ended already" in cluster.partner(*client(cluster, "jobs", "stop", "stopped")).stderr
