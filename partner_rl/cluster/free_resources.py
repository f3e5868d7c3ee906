"""What a Ray cluster has left, in words for messages."""

from __future__ import annotations

import ray


def free_resources() -> str:
    """What the cluster that this process has joined has left, in one line."""
    free, total = ray.available_resources(), ray.cluster_resources()
    kinds = sorted(kind for kind in total if ":" not in kind and kind not in ("memory", "object_store_memory"))
    return "the cluster has " + ", ".join(f"{free.get(kind, 0):g} of {total[kind]:g} {kind} free" for kind in kinds)
