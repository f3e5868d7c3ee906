"""Capacity for a plan on the cluster that this process has joined, before anything is started there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from launch.console import progress
from launch.resources.plan import ENV_RUNNERS, LEARNERS, Plan
from partner_rl.cluster.nodes import cluster_nodes
from partner_rl.cluster.placement import Node, Placement, amounts, bundles, place, unit
from partner_rl.types import PartnerError

logger = logging.getLogger(__name__)

_POLL_S: Final = 1.0
_KEYS: Final = {
    ENV_RUNNERS: "algorithm.num_env_runners or algorithm.num_gpus_per_env_runner",
    LEARNERS: "algorithm.num_learners or algorithm.num_gpus_per_learner",
}


def require_capacity(plan: Plan, wait_s: float, nodes: Callable[[], Sequence[Node]] = cluster_nodes) -> Placement:
    """Checks that every actor of the plan finds a node, and waits for nodes if it is told to.

    While it waits, the cluster's autoscaler is asked for what the plan needs.

    With `wait_s` of 0 there must be room now.

    Raises:
        PartnerError: There is no room, or not in time; says what is missing.
    """
    placement = place(plan.groups, nodes())
    if placement.fits:
        return placement
    if wait_s > 0:
        placement = _wait(plan, wait_s, nodes)
        if placement.fits:
            return placement
    waited = f" after {wait_s:g} s" if wait_s > 0 else ""
    raise PartnerError(f"the cluster has no room for the run{waited}: {what_is_missing(plan, placement)}")


def _wait(plan: Plan, wait_s: float, nodes: Callable[[], Sequence[Node]]) -> Placement:
    """Waits until every actor finds a node or the time is over."""
    deadline = time.monotonic() + wait_s
    actors = len(bundles(plan.groups))
    with _requested(plan), progress("Waiting for nodes: actors with room") as report:
        while True:
            placement = place(plan.groups, nodes())
            report(len(placement.placed), actors)
            if placement.fits or time.monotonic() >= deadline:
                return placement
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


@contextmanager
def _requested(plan: Plan) -> Iterator[None]:
    """Asks the autoscaler for the plan's bundles, for the time of a block.

    A request stays until it is taken back: one that was forgotten would keep nodes running that nobody uses.
    """
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles(plan.groups))
    try:
        yield
    finally:
        request_resources(bundles=[])


def what_is_missing(plan: Plan, placement: Placement) -> str:
    """Says which actors find no node, what the cluster has, and what to change; for a placement that does not fit."""
    nodes = placement.nodes
    if not nodes:
        return "the cluster has no node: start one, or set resources.wait_for_nodes_s if it scales itself"
    groups = [group for group in plan.groups if group.name in placement.missing]
    parts = [
        f"{group.name} {group.count} × {amounts(group.bundle)}: {placement.missing[group.name]} of them find no node"
        for group in groups
    ]
    wanted = list(dict.fromkeys(name for group in groups for name in group.bundle))
    parts.append(_largest(nodes, wanted))
    parts.append(_sums(nodes, wanted))
    keys = list(dict.fromkeys(_KEYS.get(group.name, "rewards.*.replicas or rewards.*.num_gpus") for group in groups))
    return f"{'; '.join(parts)}: lower {', '.join(keys)}, or add nodes (resources.wait_for_nodes_s waits for them)"


def _largest(nodes: Sequence[Node], wanted: Sequence[str]) -> str:
    """What the largest node has of the resources that count, whether free or not."""
    rare = [name for name in wanted if name != "CPU"] or ["CPU"]
    largest = max(nodes, key=lambda node: [node.total.get(name, 0.0) for name in [*rare, "CPU"]])
    return f"the largest node has {amounts({name: largest.total.get(name, 0.0) for name in wanted})}"


def _sums(nodes: Sequence[Node], wanted: Sequence[str]) -> str:
    parts = []
    for name in wanted:
        free = sum(node.free.get(name, 0.0) for node in nodes)
        total = sum(node.total.get(name, 0.0) for node in nodes)
        parts.append(f"{free:g} of {total:g} {unit(name, total)}")
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    return f"{count} together {'have' if len(nodes) > 1 else 'has'} {' and '.join(parts)} free"
