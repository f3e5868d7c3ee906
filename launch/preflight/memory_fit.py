"""What the processes of a run need, against the memory of GPUs and nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from launch.preflight.check_result import CheckResult, Status, compared
from launch.preflight.facts import Facts
from launch.resources.memory import GIB, ProcessMemory
from launch.resources.plan import DRIVER
from partner_rl.cluster.placement import Placement

ACCELERATOR_GIB: Final[Mapping[str, int]] = MappingProxyType(
    {
        "T4": 15,
        "P100": 16,
        "V100": 16,
        "A10G": 22,
        "L4": 22,
        "L40S": 44,
        "A100": 39,
        "A100-40G": 39,
        "A100-80G": 79,
        "H100": 79,
        "H200": 139,
        "B200": 178,
    }
)
"""GPU memory that is usable, by the names that Ray gives to accelerators; the smallest kind of each name."""


def check_gpu_memory(facts: Facts) -> Iterator[CheckResult]:
    """The processes that share a GPU against its memory."""
    needs = {process.group: process.total for process in facts.memory if process.on_gpu}
    if not needs or facts.plan is None:
        return
    shares = _gpu_shares(facts.placement, needs)
    if DRIVER in needs:
        # The driver is no actor: it computes on the first GPU of this machine.
        here = (0, 0) if facts.cluster.address is None else None
        shares[here] = [DRIVER, *shares.get(here, [])]
    worst: dict[str, tuple[float, CheckResult]] = {}
    for place_of, groups in shares.items():
        total = _gpu_bytes(facts, place_of)
        needed = sum(needs[group] for group in groups)
        result = _gpu_result(f"GPU of {' + '.join(_counted(groups))}", needed, total)
        ratio = needed / total if total else 0.0
        if result.message not in worst or ratio > worst[result.message][0]:
            worst[result.message] = ratio, result
    yield from (result for _, result in worst.values())


def _gpu_shares(placement: Placement, needs: Mapping[str, int]) -> dict[tuple[int, int] | None, list[str]]:
    """(Node, device) → groups of the processes on it."""
    shares: dict[tuple[int, int] | None, list[str]] = {}
    for actor in placement.placed:
        for device in actor.devices:
            if actor.group in needs:
                shares.setdefault((actor.node, device), []).append(actor.group)
    return shares


def _counted(groups: list[str]) -> list[str]:
    counts = {group: groups.count(group) for group in groups}
    return [group if count == 1 else f"{count} × {group}" for group, count in counts.items()]


def _gpu_bytes(facts: Facts, place_of: tuple[int, int] | None) -> int | None:
    """Memory of a GPU: this machine's is known, a cluster's goes by its kind."""
    if place_of is None or facts.cluster.address is None:
        device = 0 if place_of is None else place_of[1]
        return facts.machine.gpus[device].total if device < len(facts.machine.gpus) else None
    gib = ACCELERATOR_GIB.get(facts.cluster.nodes[place_of[0]].accelerator or "")
    return None if gib is None else gib * GIB


def _gpu_result(what: str, needed: int, there: int | None) -> CheckResult:
    estimate = f"about {needed / GIB:.1f} GiB"
    hint = (
        "lower algorithm.micro_batch_tokens, set algorithm.groups_per_chunk, take policy.lora, "
        "or give the processes GPUs of their own (rewards.*.num_gpus)"
    )
    if there is None:
        return CheckResult("GPU memory", "ok", f"{what}: {estimate} needed; the device's memory is not known")
    message = f"{what}: {estimate} of {there / GIB:.1f} GiB needed"
    return compared("GPU memory", message, hint, needed, there)


def check_memory(facts: Facts) -> Iterator[CheckResult]:
    """All processes of this machine, and of each node of a cluster, against the memory."""
    if facts.plan is None or not facts.memory:
        return
    yield from _node_memory(facts)
    counts = {group.name: group.count for group in facts.plan.groups}
    local = facts.cluster.address is None
    here = [process for process in facts.memory if local or process.group == DRIVER]
    needed = sum(counts.get(process.group, 1) * _host_bytes(process) for process in here)
    free, total = facts.machine.free_memory, facts.machine.memory
    message = f"about {needed / GIB:.1f} GiB needed, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
    hint = "take smaller models, fewer rewards.replicas or env runners, or a lower algorithm.micro_batch_tokens"
    status: Status = "problem" if needed > total else "warning" if needed > free else "ok"
    yield CheckResult("memory", status, message, "" if status == "ok" else hint)


def _host_bytes(process: ProcessMemory) -> int:
    """A process with its model on a GPU keeps little more than Python itself in the machine's memory."""
    return GIB if process.on_gpu else process.total


def _node_memory(facts: Facts) -> Iterator[CheckResult]:
    """The nodes of a cluster whose actors may need more memory than Ray counts there."""
    if facts.cluster.address is None or facts.plan is None:
        return
    needs = {process.group: _host_bytes(process) for process in facts.memory}
    placement = facts.placement
    for index, node in enumerate(placement.nodes):
        needed = sum(count * needs.get(group, 0) for group, count in placement.on_node(index).items())
        there = node.total.get("memory", 0.0)
        if there and needed > there:
            message = f"node {node.name}: about {needed / GIB:.1f} of {there / GIB:.1f} GiB needed by its actors"
            yield CheckResult(
                "memory", "warning", message, "reserve more CPUs for each actor, so that fewer share a node"
            )
