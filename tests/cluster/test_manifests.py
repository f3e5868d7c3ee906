"""The files that start clusters: accepted by Ray, closed to strangers, of the pinned versions, large enough."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from launch.resources.plan import resource_plan
from partner_rl.config.load import load_config
from tests.helpers.command_line import ROOT
from tests.helpers.waiting import wait_until

CLUSTERS = ROOT / "launch" / "clusters"
WAIT_S = 240
LAUNCHER_FILES = [ROOT / "cluster.yaml", CLUSTERS / "onprem.yaml"]


def pinned_ray() -> str:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("ray=="))


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("path", LAUNCHER_FILES, ids=lambda path: path.name)
def test_ray_accepts_the_launcher_files(path):
    validate_config(prepare_config(load(path)))


@pytest.mark.parametrize("path", LAUNCHER_FILES, ids=lambda path: path.name)
def test_launcher_files_start_ray_with_a_token_and_a_dashboard_on_loopback(path):
    cluster = load(path)
    head, worker = (
        next(command for command in cluster[f"{kind}_start_ray_commands"] if "ray start" in command)
        for kind in ("head", "worker")
    )
    assert all("RAY_AUTH_MODE=token ray start" in command for command in (head, worker))
    assert "--dashboard-host=127.0.0.1" in head
    assert any(path.endswith(".ray/auth_token") for path in cluster["file_mounts"])
    assert "0.0.0.0" not in yaml.safe_dump(cluster)


def test_aws_nodes_are_in_a_security_group_of_the_users_own():
    # Ray makes a group that is open for SSH to everybody, for each node type that names none.
    cluster = load(ROOT / "cluster.yaml")
    assert all(node["node_config"]["SecurityGroupIds"] for node in cluster["available_node_types"].values())
    assert "security_group" not in cluster["provider"]


def test_the_aws_pools_hold_the_cluster_preset():
    config = load_config("cluster")
    pools = load(ROOT / "cluster.yaml")["available_node_types"]
    assert "GPU" not in pools["head"]["resources"]
    assert pools["reward"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    plan = resource_plan(config, machine_cores=8, machine_gpus=0)
    for kind in config.resources.placement.kinds:
        pool = pools[kind]
        asked = [group for group in plan.groups if kind in dict(group.custom)]
        assert asked
        for resource in ("CPU", "GPU"):
            needed = sum(group.count * group.bundle.get(resource, 0.0) for group in asked)
            assert needed <= pool["max_workers"] * pool["resources"][resource]


def test_images_are_of_the_pinned_ray():
    docker = load(ROOT / "cluster.yaml")["docker"]
    base = next(line for line in (CLUSTERS / "Dockerfile").read_text().splitlines() if line.startswith("FROM"))
    for image in (docker["head_image"], docker["worker_image"], base.removeprefix("FROM ")):
        assert image.startswith(f"rayproject/ray:{pinned_ray()}-py311")


def test_the_image_holds_the_packages():
    copied = (CLUSTERS / "Dockerfile").read_text()
    assert all(f" {package} {package}\n" in copied for package in ("partner_rl", "envs", "rewards", "launch"))


@pytest.fixture
def rayjob() -> tuple[dict[str, Any], dict[str, Any]]:
    job, policy = yaml.safe_load_all((CLUSTERS / "rayjob.yaml").read_text(encoding="utf-8"))
    return job, policy


def containers(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_the_rayjob_is_closed_and_pinned(rayjob):
    job, policy = rayjob
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert cluster["rayVersion"] == pinned_ray()
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert policy["kind"] == "NetworkPolicy"
    assert all("ipBlock" not in source for rule in policy["spec"]["ingress"] for source in rule["from"])
    for container in containers(cluster):
        tag = container["image"].partition(":")[2]
        assert tag not in ("", "latest")
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert not any("KEY" in variable["name"] or "TOKEN" in variable["name"] for variable in container["env"])
    assert job["spec"]["shutdownAfterJobFinishes"]


def test_the_rayjob_holds_the_cluster_preset(rayjob):
    job, _ = rayjob
    command = shlex.split(job["spec"]["entrypoint"])
    preset = command[command.index("--preset") + 1]
    config = load_config(preset, [argument for argument in command if "=" in argument])
    assert Path(config.runs_dir).is_absolute()
    groups = {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    for kind in config.resources.placement.kinds:
        # KubeRay hands the value to a shell.
        (resources,) = shlex.split(groups[kind]["rayStartParams"]["resources"])
        assert json.loads(resources) == {kind: 1}
    gpus = sum(
        group["maxReplicas"] * group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
        for group in groups.values()
    )
    assert gpus >= resource_plan(config, machine_cores=8, machine_gpus=0).total_gpus


FAKES = {
    "scontrol": 'printf "node1\\nnode2\\nnode3\\n"',
    # What runs on which node, with the environment that counts; then the command itself, which is a fake, too.
    "srun": """node=; while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && node=${1#*=}; shift; done
echo "$node|$RAY_AUTH_MODE|$(stat -c %a "$RAY_AUTH_TOKEN_PATH")|$*" >> "$RECORD"
exec "$@" """,
    "hostname": "echo 192.0.2.7",
    "ray": "[[ $1 == start ]] && exec sleep 60; exit 0",
    "partner-rl": """echo "node1|$RAY_AUTH_MODE|$(stat -c %a "$RAY_AUTH_TOKEN_PATH")|partner-rl $*" >> "$RECORD"
# It ends when all nodes have been started, however long that takes.
[[ -n $FAILS ]] && { until (( $(grep -c "|ray start" "$RECORD") == 3 )); do sleep 0.1; done; exit 3; }
# Saving takes a while, or no time at all.
trap '[[ $* == *large* ]] && sleep 2; echo saved; exit 130' USR1 TERM
echo training
for i in {1..6000}; do sleep 0.1; done""",
}


@pytest.fixture
def slurm(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Runs the batch script, with stand-ins for SLURM's commands and for ours."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, body in FAKES.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RECORD": str(tmp_path / "record"),
        "VENV": str(tmp_path / "no-venv"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_CPUS_PER_TASK": "16",
    }
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, fails: str = "") -> subprocess.Popen[str]:
        # A file, as a pipe would stay open as long as the stand-ins for Ray.
        with (tmp_path / "output").open("w") as output:
            process = subprocess.Popen(
                ["bash", CLUSTERS / "slurm.sbatch", *arguments], env={**environment, "FAILS": fails}, text=True,
                start_new_session=True, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        for left in psutil.process_iter():
            try:
                if os.getsid(left.pid) == process.pid:
                    left.kill()
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue


def calls(folder: Path) -> list[tuple[str, ...]]:
    """Node, authentication mode, rights of the token's file and command of each call."""
    return [tuple(line.split("|", 3)) for line in (folder / "record").read_text().splitlines()]


def test_the_batch_script_starts_ray_with_a_token_then_trains(slurm, tmp_path):
    assert slurm("algorithm.iterations=7", fails="yes").wait(WAIT_S) == 3, (tmp_path / "output").read_text()
    made = calls(tmp_path)
    assert all((mode, rights) == ("token", "600") for _, mode, rights, _ in made)
    starts = {node: command.split() for node, _, _, command in made if command.startswith("ray start")}
    assert "--head" in starts["node1"]
    assert "--dashboard-host=127.0.0.1" in starts["node1"]
    assert all("--address=192.0.2.7:24711" in starts[node] for node in ("node2", "node3"))
    resources = {
        node: json.loads(word.partition("=")[2])
        for node, words in starts.items()
        for word in words
        if word.startswith("--resources=")
    }
    assert resources == {"node1": {"learner": 1}, "node2": {"reward": 1}, "node3": {"reward": 1}}
    (training,) = [command for *_, command in made if command.startswith("partner-rl train --preset cluster ")]
    load_config("cluster", [word for word in training.split() if "=" in word])
    assert not list(tmp_path.glob(".partner-rl-*")), "the token outlives the job"


@pytest.mark.reported
@pytest.mark.parametrize(("run", "number"), [("runs/large", signal.SIGUSR1), ("runs/small", signal.SIGTERM)])
def test_the_batch_script_saves_before_the_time_limit(slurm, tmp_path, run, number):
    batch = slurm("--resume", run)
    output = tmp_path / "output"
    wait_until(lambda: "training" in output.read_text(), "no training begins")
    # The script goes on while the training begins: it sleeps once it has set its trap and waits.
    wait_until(lambda: psutil.Process(batch.pid).status() == psutil.STATUS_SLEEPING, "the script does not wait")
    # What SLURM sends to the script alone, ten minutes before the end.
    batch.send_signal(number)
    assert batch.wait(WAIT_S) == 130
    assert "saved" in output.read_text()
    assert f"partner-rl train --resume {run}" in [command for *_, command in calls(tmp_path)]
