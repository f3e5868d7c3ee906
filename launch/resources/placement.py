"""Which node each actor of a plan finds room on, before Ray is asked.

Ray waits in silence for a node that has room for an actor. So the plan is packed onto the nodes here, the largest
actors first, each onto the first node that has room (first-fit decreasing). Ray places actors on its own; what is
decided here is whether there is room, and what is missing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from launch.resources.plan import ENV_RUNNERS, LEARNERS, ActorGroup, Plan, take_gpus

THIS_MACHINE: Final = "this machine"
"""Name of the only node of a Ray that a run starts for itself."""

_ROUNDING: Final = 1e-6
_MARK: Final = 0.01
_OTHER_ORDERS: Final = 200
_SMALL: Final = 2_000
"""Actors times nodes up to which other orders are worth the fraction of a second that they take."""
_SHOWN: Final = ("CPU", "GPU")
_KEYS: Final = {
    ENV_RUNNERS: "algorithm.num_env_runners or algorithm.num_gpus_per_env_runner",
    LEARNERS: "algorithm.num_learners or algorithm.num_gpus_per_learner",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a Ray cluster.

    Attributes:
        total: Resource → how much of it the node has.
        free: Resource → how much of it nobody has reserved.
        accelerator: Kind of its GPUs as Ray names it, such as `A10G`; None without GPUs or where Ray does not know.
    """

    node_id: str
    name: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    accelerator: str | None = None


@dataclass(frozen=True, slots=True)
class PlacedActor:
    """An actor and where there is room for it.

    Attributes:
        node: Index of the node.
        devices: The node's GPUs that it has a share of.
    """

    group: str
    node: int
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """A plan on a cluster.

    Attributes:
        missing: Group → how many of its actors find none.
    """

    nodes: tuple[Node, ...]
    placed: tuple[PlacedActor, ...]
    missing: Mapping[str, int]

    @property
    def fits(self) -> bool:
        """Whether every actor finds room."""
        return not self.missing

    def on_node(self, node: int) -> dict[str, int]:
        """Group → number of its actors on a node."""
        return dict(Counter(actor.group for actor in self.placed if actor.node == node))


def this_machine(plan: Plan) -> Node:
    """The node of the Ray that a run starts for itself; it is of every kind that actors ask for."""
    kinds = {name: 1.0 for group in plan.groups for name, _ in group.custom}
    resources = {"CPU": float(plan.local_ray_cpus), "GPU": float(plan.machine_gpus), **kinds}
    return Node("", THIS_MACHINE, resources, resources)


def place(plan: Plan, nodes: Sequence[Node]) -> Placement:
    """Packs the actors of a plan onto nodes, as far as there is room.

    The largest come first. On a cluster that is full to the last share that order may leave an actor out where another
    one does not, so others are tried before somebody is told that there is no room.

    The driver reserves nothing and is left out.
    """
    largest_first = sorted((group for group in plan.groups if group.bundle), key=_size, reverse=True)
    actors = [group for group in largest_first for _ in range(group.count)]
    best = _pack(actors, nodes)
    shuffled, random = list(actors), Random(0)
    for _ in range(_OTHER_ORDERS if len(actors) * len(nodes) <= _SMALL else 0):
        if best.fits:
            break
        random.shuffle(shuffled)
        other = _pack(shuffled, nodes)
        best = other if other.fits else best
    return best


def _pack(actors: Sequence[ActorGroup], nodes: Sequence[Node]) -> Placement:
    """Puts each actor, in the order given, onto the first node with room."""
    room = [_Room.of(node) for node in nodes]
    found = [(group, _first_fit(group, room)) for group in actors]
    missing = Counter(group.name for group, actor in found if actor is None)
    return Placement(tuple(nodes), tuple(actor for _, actor in found if actor is not None), dict(missing))


def _size(group: ActorGroup) -> tuple[bool, float, float]:
    """What makes an actor hard to place: a kind of node that it must be on, then GPUs, then CPUs."""
    return bool(group.custom), group.gpus, group.cpus


def _first_fit(group: ActorGroup, room: Sequence[_Room]) -> PlacedActor | None:
    # An actor without a GPU goes to a node without one if it can, as Ray's own scheduler has it.
    order = sorted(range(len(room)), key=lambda index: bool(room[index].devices) if not group.gpus else False)
    for index in order:
        devices = room[index].take(group)
        if devices is not None:
            return PlacedActor(group.name, index, devices)
    return None


@dataclass(slots=True)
class _Room:
    """What is left of a node."""

    free: dict[str, float]
    devices: list[float]

    @classmethod
    def of(cls, node: Node) -> _Room:
        # Ray tells the sum alone; whole devices first is the best that it can mean.
        free, count = node.free.get("GPU", 0.0), math.ceil(node.total.get("GPU", 0.0) - _ROUNDING)
        return cls(dict(node.free), [min(1.0, max(0.0, free - index)) for index in range(count)])

    def take(self, group: ActorGroup) -> tuple[int, ...] | None:
        """Reserves an actor's resources and returns its devices; None, and nothing is reserved, without room."""
        others = {name: amount for name, amount in group.bundle.items() if name != "GPU"}
        if any(self.free.get(name, 0.0) < amount - _ROUNDING for name, amount in others.items()):
            return None
        devices = take_gpus(self.devices, group.gpus) if group.gpus else ()
        if devices is not None:
            for name, amount in others.items():
                self.free[name] -= amount
        return devices


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
        parts.append(f"{free:g} of {total:g} {_unit(name, total)}")
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    return f"{count} together {'have' if len(nodes) > 1 else 'has'} {' and '.join(parts)} free"


def amounts(resources: Mapping[str, float]) -> str:
    """Resources as `1 GPU and 0.5 CPUs on a node with 'reward'`."""
    order = sorted(resources, key=lambda name: (name not in _SHOWN, name != "GPU"))
    # A trace of a resource marks a kind of node (`resources.placement`).
    kinds = [name for name in order if 0 < resources[name] < _MARK]
    parts = [f"{resources[name]:g} {_unit(name, resources[name])}" for name in order if name not in kinds]
    where = f" on a node with {' and '.join(map(repr, kinds))}" if kinds else ""
    return (" and ".join(parts) or "room") + where


def _unit(name: str, amount: float) -> str:
    return f"{name}s" if name in _SHOWN and amount != 1 else name


def bundles(groups: Iterable[ActorGroup]) -> list[dict[str, float]]:
    """What Ray reserves for each actor, one entry an actor: the form that its autoscaler takes."""
    return [group.bundle for group in groups if group.bundle for _ in range(group.count)]
