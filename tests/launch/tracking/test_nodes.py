"""Metrics of a real Ray: every query of the Grafana dashboard finds its metrics, and every node is seen."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.cluster_utils import Cluster
from ray.dashboard.modules.reporter import reporter_agent

from launch.tracking.nodes import NodeWatch, node_names, parse_gpus
from partner_rl.cluster.ray_metrics import RAY_METRICS
from partner_rl.config.reward_schema import RewardsConfig, RewardSection
from partner_rl.types import ScoreRequest
from rewards.pool import create_pools
from rewards.scorer import ComponentScore, FloatArray, Item, RewardComponent
from tests.algorithm.toy import build_toy, toy_config
from tests.helpers.waiting import wait_until

# Actors cannot import this file by name: what it defines travels by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

DASHBOARD = json.loads((files("launch.tracking") / "grafana_dashboard.json").read_text(encoding="utf-8"))
TIMEOUT_S = 240.0
NAME = re.compile(r"\bray_[a-z0-9_]+")
SELECTOR = re.compile(r"\{([^}]*)\}")
LABEL = re.compile(r"(\w+)(?:=~|!=|!~|=)")
GROUPED = re.compile(r"\bby \(([a-z_, ]+)\)")
LEGEND_LABEL = re.compile(r"\{\{(\w+)\}\}")


@pytest.fixture(scope="module")
def cluster(no_ray: None) -> Iterator[Cluster]:
    """A head and a second node on this machine."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "include_dashboard": False, "object_store_memory": 100 * 2**20},
    )
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@dataclass(frozen=True)
class LengthReward:
    name: str = "length"
    width: int = 1

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        return ((request.rewritten_response,),)

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        return ComponentScore(float(values[0, 0]))


@dataclass(frozen=True)
class DiesOnce:
    """Builds a scorer whose process ends at its first call."""

    mark: Path

    def build(self) -> DiesOnce:
        return self

    def score(self, items: Sequence[Item]) -> object:
        if not self.mark.exists():
            self.mark.touch()
            os._exit(1)
        return [[float(len(text))] for (text,) in items]


def scrape(found: dict[str, set[str]]) -> None:
    """Adds to exported name → its labels what the endpoints of all nodes tell by now."""
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text = answer.read().decode()
        except (OSError, HTTPException):
            # The process behind it starts after the node, or is busy: it is asked again.
            continue
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)


def queries() -> list[tuple[str, str]]:
    """Query and legend of each curve."""
    return [(target["expr"], target["legendFormat"]) for panel in DASHBOARD["panels"] for target in panel["targets"]]


def names_in(query: str) -> set[str]:
    return set(NAME.findall(GROUPED.sub("", SELECTOR.sub("", query))))


def queried_names() -> set[str]:
    return {name for query, _ in queries() for name in names_in(query)}


def finds(query: str, legend: str, found: dict[str, set[str]], on_gpus: set[str]) -> bool:
    """Whether a query's names are exported, GPUs aside, with the labels that it and its legend name."""
    names = names_in(query) - on_gpus
    selected = {label for selector in SELECTOR.findall(query) for label in LABEL.findall(selector)}
    grouped = {label for labels in GROUPED.findall(query) for label in labels.split(", ")}
    shown = set(LEGEND_LABEL.findall(legend))
    needed = selected - {"le"} | grouped | (set() if shown <= grouped else shown)
    return all(needed <= found.get(name, set()) and name in found for name in names)


@pytest.mark.slow
@pytest.mark.cluster
def test_every_query_of_the_dashboard_finds_its_metrics(cluster, tmp_path):
    component = RewardComponent(LengthReward(), DiesOnce(tmp_path / "died"), RewardSection(weight=1.0))
    with create_pools({"length": component}, RewardsConfig(replicas=1, num_cpus=0.5), "meters", 1) as pools:
        pools.client().score_items("length", [("abc",), ("abcd",)])
    algorithm = build_toy(toy_config())
    try:
        algorithm.train()
    finally:
        algorithm.stop()
    wanted = queried_names()
    on_gpus = {name for name in wanted if "gpu" in name}
    found: dict[str, set[str]] = {}

    # The metrics of one name come from several processes, at their own times: all of it is waited for.
    def lacking() -> list[str]:
        return [query for query, legend in queries() if not finds(query, legend, found, on_gpus)]

    def is_there() -> bool:
        scrape(found)
        return not lacking()

    wait_until(
        is_there, lambda: f"never exported: {wanted - on_gpus - found.keys()}; not found by {lacking()}", interval_s=0.5
    )
    source = inspect.getsource(reporter_agent)
    assert all(f'"{name.removeprefix("ray_")}"' in source for name in on_gpus)


def test_the_dashboard_shows_every_figure_that_is_exported():
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in queried_names()}
    assert {metric.exported for metric in RAY_METRICS} <= shown


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.slow
@pytest.mark.cluster
def test_nodes_that_join_are_seen_and_nodes_that_leave_are_forgotten(cluster):
    watch = NodeWatch(0.3)

    def nodes() -> set[str]:
        return {key.split("/")[1] for key in watch.latest() if key.endswith("/cpu_percent")}

    try:
        wait_until(lambda: len(nodes()) == 1, "the driver's node is not seen")
        second = cluster.add_node(wait=False, num_cpus=0, object_store_memory=80 * 2**20)
        wait_until(lambda: len(nodes()) == 2, "the second node is not seen")
        metrics = watch.latest()
        assert all(0 <= value <= 100 for key, value in metrics.items() if key.endswith("_percent"))
        cluster.remove_node(second)
        wait_until(lambda: len(nodes()) == 1, "the second node is not forgotten")
    finally:
        watch.stop()


def test_nodes_of_one_host_have_names_of_their_own():
    names = node_names({"aaaaaaaa": "head", "bbbbbbbb": "worker", "cccccccc": "worker"})
    assert names == {"aaaaaaaa": "head", "bbbbbbbb": "worker-bbbbbb", "cccccccc": "worker-cccccc"}


def test_figures_of_gpus_are_read_and_missing_ones_left_out():
    assert parse_gpus("35, 1024\n[N/A], 7\n") == {
        "gpu_percent_0": 35.0,
        "gpu_memory_used_mib_0": 1024.0,
        "gpu_memory_used_mib_1": 7.0,
    }
    assert parse_gpus("") == {}
