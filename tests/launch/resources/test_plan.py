from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from launch.resources.plan import DRIVER, ENV_RUNNERS, LEARNERS, machine_cores, resource_plan
from partner_rl.config.load import load_config
from partner_rl.types import PartnerError

ROOT = Path(__file__).resolve().parents[3]


def test_a_local_run_has_a_driver_and_four_pools() -> None:
    plan = resource_plan(load_config("smoke"), machine_cores=2, machine_gpus=0)
    assert [group.name for group in plan.groups] == [
        DRIVER,
        "reward empathy",
        "reward fluency",
        "reward coherence",
        "reward mutual_information",
    ]
    assert plan.groups[0].threads == 2
    assert all(group.threads == 1 for group in plan.groups[1:])
    assert plan.total_cpus == 2.0
    assert plan.local_ray_cpus == 2


def test_a_local_ray_is_started_with_room_for_every_actor() -> None:
    overrides = [
        "algorithm.num_env_runners=2",
        "algorithm.num_learners=2",
        "rewards.replicas=2",
        "rewards.num_cpus=0.6",
    ]
    plan = resource_plan(load_config("smoke", overrides), machine_cores=2, machine_gpus=0)
    assert plan.total_cpus == pytest.approx(2 + 2 + 8 * 0.6)
    assert plan.local_ray_cpus == 9
    env_runners, learners = plan.group(ENV_RUNNERS), plan.group(LEARNERS)
    assert env_runners is not None
    assert learners is not None
    assert (env_runners.count, env_runners.threads, learners.count, learners.threads) == (2, 1, 2, 1)


def test_actors_share_the_cores_of_a_large_machine() -> None:
    overrides = ["algorithm.num_env_runners=2", "rewards.empathy.replicas=5"]
    plan = resource_plan(load_config("smoke", overrides), machine_cores=32, machine_gpus=0)
    env_runners, empathy = plan.group(ENV_RUNNERS), plan.reward_group("empathy")
    assert env_runners is not None
    assert empathy is not None
    assert env_runners.threads == 16
    assert (empathy.count, empathy.threads) == (5, 4)
    assert plan.group(DRIVER) == plan.groups[0]
    assert plan.group(LEARNERS) is None


def test_thread_counts_of_the_configuration_win() -> None:
    overrides = ["resources.driver_threads=3", "resources.actor_threads=5"]
    plan = resource_plan(load_config("smoke", overrides), machine_cores=32, machine_gpus=0)
    assert [group.threads for group in plan.groups] == [3, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("overrides", "gpus"),
    [
        (["rewards.empathy.num_gpus=0.5"], 0),
        (["rewards.empathy.num_gpus=0.6", "rewards.fluency.num_gpus=0.6"], 1),
        # In sum 2.4 of 3 GPUs, and yet the fourth finds no room.
        (["rewards.empathy.replicas=4", "rewards.empathy.num_gpus=0.6"], 3),
        (["algorithm.num_env_runners=2", "algorithm.num_gpus_per_env_runner=1"], 1),
        (["algorithm.num_learners=1", "algorithm.num_gpus_per_learner=2"], 1),
    ],
)
def test_gpus_that_are_not_there_are_an_error(overrides: list[str], gpus: int) -> None:
    config = load_config("smoke", overrides)
    with pytest.raises(PartnerError, match=f"more GPUs than this machine's {gpus}"):
        resource_plan(config, machine_cores=8, machine_gpus=gpus)
    on_a_cluster = load_config("smoke", [*overrides, "resources.address=auto"])
    assert resource_plan(on_a_cluster, machine_cores=8, machine_gpus=gpus).total_gpus > gpus or gpus == 3


def test_one_and_a_half_gpus_are_no_share() -> None:
    overrides = ["algorithm.num_learners=1", "algorithm.num_gpus_per_learner=1.5", "resources.address=auto"]
    with pytest.raises(PartnerError, match=r"learners: 1\.5 GPUs each"):
        resource_plan(load_config("smoke", overrides), 8, 4)


def test_ray_reserves_no_cpu_for_a_learner_with_a_gpu() -> None:
    asked = ["algorithm.num_learners=1", "resources.address=auto"]
    with_gpu = resource_plan(load_config("smoke", [*asked, "algorithm.num_gpus_per_learner=1"]), 8, 0).group(LEARNERS)
    without = resource_plan(load_config("smoke", asked), 8, 0).group(LEARNERS)
    assert with_gpu is not None
    assert without is not None
    assert (with_gpu.bundle, without.bundle) == ({"GPU": 1.0}, {"CPU": 1.0})


def test_an_evaluation_starts_no_learners() -> None:
    config = load_config("smoke", ["algorithm.num_env_runners=1", "algorithm.num_learners=1"])
    names = [group.name for group in resource_plan(config, 2, 0).for_scoring().groups]
    assert names[0] == DRIVER
    assert all(name.startswith("reward ") for name in names[1:])
    assert len(names) == 5


def test_fractions_fit_together_on_one_gpu() -> None:
    overrides = [f"rewards.{name}.num_gpus=0.1" for name in ("empathy", "fluency", "coherence", "mutual_information")]
    plan = resource_plan(
        load_config("smoke", [*overrides, "rewards.replicas=2", "rewards.coherence.replicas=4"]), 8, machine_gpus=1
    )
    assert plan.total_gpus == pytest.approx(1.0)


def test_the_cluster_preset_asks_for_eight_gpus() -> None:
    plan = resource_plan(load_config("cluster"), machine_cores=8, machine_gpus=0)
    assert plan.total_gpus == 8


def test_the_table_shows_every_group() -> None:
    console = Console(record=True, width=120, file=None)
    with console.capture() as capture:
        console.print(resource_plan(load_config("smoke"), 2, 0).table())
    assert "mutual_information" in capture.get()


def test_this_machine_has_a_core() -> None:
    assert machine_cores() >= 1


@pytest.fixture(scope="module")
def cluster_file() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return loaded


def test_ray_accepts_the_cluster_file(cluster_file: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster_file)
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


def test_the_cluster_file_holds_the_cluster_preset(cluster_file: dict[str, Any]) -> None:
    nodes = cluster_file["available_node_types"].values()
    gpus = sum(node["resources"].get("GPU", 0) * node.get("max_workers", 0) for node in nodes)
    assert gpus >= resource_plan(load_config("cluster"), machine_cores=8, machine_gpus=0).total_gpus
    cpus = sum(node["resources"]["CPU"] * node.get("max_workers", 0) for node in nodes)
    assert cpus >= resource_plan(load_config("cluster"), machine_cores=8, machine_gpus=0).total_cpus


def test_the_cluster_is_closed_to_strangers(cluster_file: dict[str, Any]) -> None:
    starts = [*cluster_file["head_start_ray_commands"], *cluster_file["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert any(path.endswith("auth_token") for path in cluster_file["file_mounts"])


def test_the_cluster_runs_the_pinned_ray(cluster_file: dict[str, Any]) -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = next(line.partition("==")[2] for line in constraints if line.startswith("ray=="))
    images = (cluster_file["docker"]["head_image"], cluster_file["docker"]["worker_image"])
    assert all(image.startswith(f"rayproject/ray:{pinned}-py311") for image in images)


def test_a_local_run_shares_the_gpu_of_its_machine():
    from launch.resources.plan import resource_plan, share_local_gpu

    config = load_config("embedded")
    assert share_local_gpu(config, 0) == config
    assert share_local_gpu(load_config("embedded", ["device=cpu"]), 1).rewards == config.rewards
    placed = share_local_gpu(config, 1)
    plan = resource_plan(placed, 4, 1)
    assert 0.5 < plan.total_gpus <= 1.0
    assert placed.algorithm.num_gpus_per_learner == 1.0
    named = load_config("embedded", ["rewards.fluency.num_gpus=0.5"])
    assert share_local_gpu(named, 1) == named


def test_a_training_starts_no_actors_for_what_weighs_nothing() -> None:
    schedule = "rewards.mutual_information.schedule=[[5, 0.0], [9, 0.3]]"
    config = load_config("smoke", ["rewards.fluency.weight=0", "rewards.mutual_information.weight=0", schedule])
    names = [group.name for group in resource_plan(config, 6, 0, scores_all=False).groups]
    # Mutual information will weigh something in later iterations.
    assert names == [DRIVER, "reward empathy", "reward coherence", "reward mutual_information"]
    assert {group.threads for group in resource_plan(config, 6, 0, scores_all=False).groups[1:]} == {2}
    assert resource_plan(config, 6, 0).reward_group("fluency") is not None


@pytest.mark.parametrize(("keys", "actors"), [([], 4), (["rewards.listener.weight=0.5"], 5)])
def test_the_listener_has_actors_only_where_it_has_a_weight(keys: list[str], actors: int) -> None:
    from launch.resources.plan import share_local_gpu

    plan = resource_plan(load_config("smoke", keys), machine_cores=8, machine_gpus=0, scores_all=True)
    assert len([group for group in plan.groups if group.name.startswith("reward ")]) == actors
    assert (plan.reward_group("listener") is not None) == (actors == 5)
    # Who starts no actor takes no share of the GPU.
    shared = share_local_gpu(load_config("smoke", keys), 1).rewards
    assert shared.fluency.num_gpus == 1 / actors
    assert shared.listener.num_gpus == (1 / actors if actors == 5 else 0.0)
