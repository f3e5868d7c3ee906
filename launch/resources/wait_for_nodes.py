"""Room for a plan on the cluster that this process has joined, before anything is started there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import ray

from launch.console import progress
from launch.resources.placement import Node, Placement, bundles, place, what_is_missing
from launch.resources.plan import Plan
from partner_rl.types import PartnerError

logger = logging.getLogger(__name__)

_POLL_S: Final = 1.0
_ACCELERATOR: Final = "ray.io/accelerator-type"
_NODE_MARK: Final = "node:"


def cluster_nodes() -> tuple[Node, ...]:
    """The living nodes of the cluster that this process has joined."""
    # Ray's public functions tell what is free in the whole cluster only.
    from ray._private import state

    free = state.available_resources_per_node()
    return tuple(
        Node(
            node_id=node["NodeID"],
            name=node["NodeManagerAddress"],
            total=_resources(node["Resources"]),
            # A node that has just joined has not told yet: all of it is free.
            free=_resources(free.get(node["NodeID"], node["Resources"])),
            accelerator=(node.get("Labels") or {}).get(_ACCELERATOR),
        )
        for node in sorted(ray.nodes(), key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
        if node["Alive"]
    )


def _resources(found: dict[str, float]) -> dict[str, float]:
    """Resources without the marks by which Ray names nodes."""
    return {name: float(amount) for name, amount in found.items() if not name.startswith(_NODE_MARK)}


def require_capacity(plan: Plan, wait_s: float, nodes: Callable[[], Sequence[Node]] = cluster_nodes) -> Placement:
    """Checks that every actor of the plan finds a node, and waits for nodes if it is told to.

    While it waits, the cluster's autoscaler is asked for what the plan needs.

    With `wait_s` of 0 there must be room now.

    Raises:
        PartnerError: There is no room, or not in time; says what is missing.
    """
    placement = place(plan, nodes())
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
            placement = place(plan, nodes())
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
