"""The packing of a plan onto nodes, without Ray."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.resources import capacity
from launch.resources.capacity import require_capacity, what_is_missing
from launch.resources.plan import DRIVER, ENV_RUNNERS, LEARNERS, Plan, resource_plan
from partner_rl.cluster.placement import ActorGroup, Node, amounts, bundles, place, take_gpus
from partner_rl.config.load import load_config
from partner_rl.types import PartnerError

ROOT = Path(__file__).resolve().parents[3]


def plan(*groups: ActorGroup) -> Plan:
    return Plan((ActorGroup(DRIVER, 1, 0.0, 0.0, 1), *groups), machine_cores=2, machine_gpus=0)


def node(name: str, cpus: float, gpus: float = 0.0, used: dict[str, float] | None = None, **others: float) -> Node:
    total = {"CPU": cpus, "GPU": gpus, **others}
    free = {key: amount - (used or {}).get(key, 0.0) for key, amount in total.items()}
    return Node(name, name, total, free)


def test_what_has_a_gpu_comes_first_and_the_rest_leaves_gpu_nodes_alone():
    runners = ActorGroup(ENV_RUNNERS, 2, 1.0, 0.0, 1)
    learners = ActorGroup(LEARNERS, 1, 0.0, 1.0, 1)
    placement = place([runners, learners], [node("gpu", 4, 1), node("cpu", 2)])
    assert placement.fits
    assert placement.placed[0].group == LEARNERS
    assert placement.on_node(0) == {LEARNERS: 1}
    assert placement.on_node(1) == {ENV_RUNNERS: 2}


def test_a_fraction_must_fit_one_device():
    # 2.4 of 3 GPUs in sum, and the fourth finds no device.
    pool = ActorGroup("reward empathy", 4, 0.0, 0.6, 1)
    placement = place([pool], [node("a", 4, 3)])
    assert placement.missing == {"reward empathy": 1}
    assert sorted(actor.devices for actor in placement.placed) == [(0,), (1,), (2,)]


def test_several_gpus_are_whole_ones_of_one_node():
    learners = ActorGroup(LEARNERS, 1, 0.0, 2.0, 1)
    assert place([learners], [node("a", 4, 1), node("b", 4, 1)]).missing == {LEARNERS: 1}
    placement = place([learners], [node("a", 4, 1), node("b", 4, 2)])
    assert [(actor.node, actor.devices) for actor in placement.placed] == [(1, (0, 1))]


def test_an_order_that_leaves_somebody_out_is_not_the_last_word():
    # The two large shares fill one device together, and then four small ones do not fit the other.
    groups = [ActorGroup("large", 2, 0.0, 0.44, 1), ActorGroup("small", 4, 0.0, 0.28, 1)]
    assert place(groups, [node("a", 1, 2)]).fits


def test_who_must_be_on_a_kind_of_node_comes_before_who_may_be_anywhere():
    runner = ActorGroup(ENV_RUNNERS, 1, 0.0, 1.0, 1)
    marked = ActorGroup("reward empathy", 2, 0.0, 0.5, 1, (("reward", 0.001),))
    nodes = [node("a", 1, 1, reward=1.0), node("b", 1, 1)]
    assert place([runner, marked], nodes).fits


def test_a_large_cluster_is_packed_in_a_moment():
    # Processor time of this thread, because other tests may hold the cores.
    started = time.thread_time()
    groups = [ActorGroup(ENV_RUNNERS, 400, 1.0, 0.5, 1), ActorGroup(LEARNERS, 65, 1.0, 1.0, 1)]
    assert not place(groups, [node(f"n{i}", 8, 8) for i in range(33)]).fits
    assert time.thread_time() - started < 2.0


def test_what_others_use_is_not_there():
    runners = ActorGroup(ENV_RUNNERS, 2, 1.0, 0.0, 1)
    assert place([runners], [node("a", 4, used={"CPU": 3.0})]).missing == {ENV_RUNNERS: 1}
    half = ActorGroup("reward fluency", 1, 0.0, 0.75, 1)
    assert place([half], [node("a", 4, 1, used={"GPU": 0.5})]).missing == {"reward fluency": 1}


def test_a_mark_keeps_actors_to_their_kind_of_node():
    config = load_config("smoke", ["resources.placement.rewards=reward", "algorithm.num_env_runners=1"])
    marked = resource_plan(config, 2, 0)
    assert place(marked.groups, [node("a", 8), node("b", 8, reward=1.0)]).on_node(0) == {ENV_RUNNERS: 1}
    missing = place(marked.groups, [node("a", 8)])
    assert sum(missing.missing.values()) == 4
    assert "a node with 'reward'" in what_is_missing(marked, missing)
    assert place(marked.groups, [marked.local_node]).fits


def test_the_message_says_what_is_missing():
    runners = ActorGroup(ENV_RUNNERS, 4, 1.0, 1.0, 1)
    asked = plan(runners)
    nodes = [node("a", 8, 1), node("b", 8, 1), node("c", 64)]
    text = what_is_missing(asked, place(asked.groups, nodes))
    assert "env runners 4 × 1 GPU and 1 CPU: 2 of them find no node" in text
    assert "the largest node has 1 GPU and 8 CPUs" in text
    assert "3 nodes together have 80 of 80 CPUs and 2 of 2 GPUs free" in text
    assert "algorithm.num_env_runners" in text
    assert "\n" not in text
    assert "no node" in what_is_missing(asked, place(asked.groups, []))


def test_amounts_read_like_a_sentence():
    assert amounts({"CPU": 0.5, "GPU": 1.0}) == "1 GPU and 0.5 CPUs"
    assert amounts({"CPU": 1.0, "reward": 0.001}) == "1 CPU on a node with 'reward'"


def test_the_bundles_are_those_of_all_actors():
    config = load_config("cluster")
    asked = bundles(resource_plan(config, 8, 0).groups)
    assert len(asked) == 14
    assert sum(bundle.get("GPU", 0.0) for bundle in asked) == pytest.approx(8)
    assert all(amount > 0 for bundle in asked for amount in bundle.values())


def test_the_cluster_preset_fits_the_nodes_of_the_cluster_file():
    asked = resource_plan(load_config("cluster"), 8, 0)
    kinds = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["available_node_types"]
    nodes = [
        Node(f"{kind}-{i}", kind, settings["resources"], settings["resources"])
        for kind, settings in kinds.items()
        for i in range(settings.get("max_workers", 1))
    ]
    assert place(asked.groups, nodes).fits
    assert not place(asked.groups, nodes[:-1]).fits


FRACTIONS = st.sampled_from([0.0, 0.2, 0.25, 0.3, 0.5, 0.6, 1.0, 2.0])
GROUPS = st.lists(
    st.builds(
        ActorGroup,
        name=st.integers().map(str),
        count=st.integers(1, 4),
        cpus=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        gpus=FRACTIONS,
        threads=st.just(1),
    ),
    max_size=4,
    unique_by=lambda group: group.name,
)
NODES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(groups=GROUPS, sizes=NODES)
def test_no_node_and_no_device_is_promised_twice(groups, sizes):
    nodes = [node(f"n{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(sizes)]
    placement = place(groups, nodes)
    by_name = {group.name: group for group in groups}
    cpus, devices = Counter(), Counter()
    for actor in placement.placed:
        group = by_name[actor.group]
        cpus[actor.node] += group.cpus
        assert len(actor.devices) == math.ceil(group.gpus)
        for device in actor.devices:
            devices[actor.node, device] += min(1.0, group.gpus)
    assert all(amount <= sizes[index][0] + 1e-6 for index, amount in cpus.items())
    assert all(share <= 1 + 1e-6 and device < sizes[index][1] for (index, device), share in devices.items())
    reserving = sum(group.count for group in groups if group.bundle)
    assert len(placement.placed) + sum(placement.missing.values()) == reserving
    if not placement.fits:
        assert "find no node" in what_is_missing(plan(*groups), placement)


@settings(max_examples=60, deadline=None)
@given(shares=st.lists(st.sampled_from([0.25, 0.5, 1.0]), max_size=8))
def test_fractions_that_divide_each_other_fit_whenever_their_sum_does(shares):
    groups = [ActorGroup(str(i), 1, 0.0, share, 1) for i, share in enumerate(shares)]
    assert place(groups, [node("a", 1, 2), node("b", 1, 1)]).fits == (sum(shares) <= 3)


def test_devices_are_left_as_they_were_without_room():
    free = [1.0, 0.5]
    assert take_gpus(free, 2) is None
    assert free == [1.0, 0.5]
    assert take_gpus(free, 0.5) == (0,)
    assert free == [0.5, 0.5]


def test_without_waiting_the_refusal_comes_at_once(monkeypatch):
    monkeypatch.setattr(capacity, "_wait", lambda *arguments: pytest.fail("it waited for nodes"))
    runners = ActorGroup(ENV_RUNNERS, 1, 1.0, 1.0, 1)

    def look() -> Iterator[list[Node]]:
        yield [node("a", 4)]

    once = look()
    with pytest.raises(PartnerError, match="the cluster has no room for the run: env runners 1 × 1 GPU"):
        require_capacity(plan(runners), 0.0, lambda: next(once))


def test_with_room_nobody_waits():
    runners = ActorGroup(ENV_RUNNERS, 1, 1.0, 0.0, 1)

    def look() -> Iterator[list[Node]]:
        yield [node("a", 4)]

    once = look()
    assert require_capacity(plan(runners), 100.0, lambda: next(once)).fits


@pytest.mark.parametrize(
    ("cpus", "gpus", "placed"),
    # A share is of one device: of two devices, four times 0.4 and not five.
    [(3, 0, 1), (0.1, 0, 40), (5, 0, 0), (0.5, 0.4, 4), (0.5, 2, 1), (0, 0.5, 4)],
)
def test_equal_actors_are_each_on_one_node(cpus, gpus, placed):
    assert len(place([ActorGroup("workers", 50, cpus, gpus, 1)], [node("a", 4, 2)]).placed) == placed
