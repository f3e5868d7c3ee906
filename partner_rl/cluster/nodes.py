"""The nodes of the Ray cluster that this process has joined, and what is free there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import ray

from partner_rl.cluster.placement import Node
from partner_rl.cluster.ray_internals import free_resources_per_node

_ACCELERATOR: Final = "ray.io/accelerator-type"
_NODE_MARK: Final = "node:"


def cluster_nodes() -> tuple[Node, ...]:
    """The living nodes of the cluster that this process has joined."""
    free = free_resources_per_node()
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


def _resources(found: Mapping[str, float]) -> dict[str, float]:
    """Resources without the marks by which Ray names nodes."""
    return {name: float(amount) for name, amount in found.items() if not name.startswith(_NODE_MARK)}


def free_resources() -> str:
    """What the cluster that this process has joined has left, in one line."""
    free, total = ray.available_resources(), ray.cluster_resources()
    kinds = sorted(kind for kind in total if ":" not in kind and kind not in ("memory", "object_store_memory"))
    return "the cluster has " + ", ".join(f"{free.get(kind, 0):g} of {total[kind]:g} {kind} free" for kind in kinds)
