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

_ROUNDING: Final = 1e-6
"""Sums of fractions of a GPU are as exact as Ray's own, which counts in ten-thousandths."""
_MARK: Final = 0.01
_OTHER_ORDERS: Final = 200
_SMALL: Final = 2_000
"""Actors times nodes up to which other orders are worth the fraction of a second that they take."""
_SHOWN: Final = ("CPU", "GPU")


@dataclass(frozen=True, slots=True)
class ActorGroup:
    """Processes of one kind that share their resources' shape.

    Attributes:
        name: `driver`, `env runners`, `learners` or `reward NAME`.
        cpus: Logical CPUs that each reserves in Ray; the driver reserves none.
        gpus: GPUs, or a fraction of one, that each reserves in Ray.
        custom: Other resources that each reserves in Ray, as (name, amount).
    """

    name: str
    count: int
    cpus: float
    gpus: float
    threads: int
    custom: tuple[tuple[str, float], ...] = ()

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray reserves for one of them, by Ray's names of resources; empty for the driver."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, **dict(self.custom)}
        return {name: amount for name, amount in asked.items() if amount > 0}


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


def place(groups: Iterable[ActorGroup], nodes: Sequence[Node]) -> Placement:
    """Packs the actors of a plan onto nodes, as far as there is room.

    The largest come first. On a cluster that is full to the last share that order may leave an actor out where another
    one does not, so others are tried before somebody is told that there is no room.

    The driver reserves nothing and is left out.
    """
    largest_first = sorted((group for group in groups if group.bundle), key=_size, reverse=True)
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
    free = [_FreeResources.of(node) for node in nodes]
    found = [(group, _first_fit(group, free)) for group in actors]
    missing = Counter(group.name for group, actor in found if actor is None)
    return Placement(tuple(nodes), tuple(actor for _, actor in found if actor is not None), dict(missing))


def _size(group: ActorGroup) -> tuple[bool, float, float]:
    """What makes an actor hard to place: a kind of node that it must be on, then GPUs, then CPUs."""
    return bool(group.custom), group.gpus, group.cpus


def _first_fit(group: ActorGroup, free: Sequence[_FreeResources]) -> PlacedActor | None:
    # An actor without a GPU goes to a node without one if it can, as Ray's own scheduler has it.
    order = sorted(range(len(free)), key=lambda index: not group.gpus and bool(free[index].devices))
    for index in order:
        devices = free[index].take(group)
        if devices is not None:
            return PlacedActor(group.name, index, devices)
    return None


@dataclass(slots=True)
class _FreeResources:
    """What is left of a node."""

    free: dict[str, float]
    devices: list[float]

    @classmethod
    def of(cls, node: Node) -> _FreeResources:
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


def take_gpus(free: list[float], gpus: float) -> tuple[int, ...] | None:
    """Takes an actor's share from the first devices that have room.

    A fraction must fit one device; from 1 on, an actor gets whole devices.

    `free` is the share of each device that nobody has reserved; it is lowered in place.

    Returns:
        The devices, or None when there is no room.
    """
    share, count = min(gpus, 1.0), math.ceil(gpus)
    devices = tuple(index for index, left in enumerate(free) if left >= share - _ROUNDING)[:count]
    if len(devices) < count:
        return None
    for index in devices:
        free[index] -= share
    return devices


def amounts(resources: Mapping[str, float]) -> str:
    """Resources as `1 GPU and 0.5 CPUs on a node with 'reward'`."""
    order = sorted(resources, key=lambda name: (name not in _SHOWN, name != "GPU"))
    # A trace of a resource marks a kind of node (`resources.placement`).
    kinds = [name for name in order if 0 < resources[name] < _MARK]
    parts = [f"{resources[name]:g} {unit(name, resources[name])}" for name in order if name not in kinds]
    where = f" on a node with {' and '.join(map(repr, kinds))}" if kinds else ""
    return (" and ".join(parts) or "room") + where


def unit(name: str, amount: float) -> str:
    """A resource's name, in the plural for several CPUs or GPUs."""
    return f"{name}s" if name in _SHOWN and amount != 1 else name


def bundles(groups: Iterable[ActorGroup]) -> list[dict[str, float]]:
    """What Ray reserves for each actor, one entry an actor: the form that its autoscaler takes."""
    return [group.bundle for group in groups if group.bundle for _ in range(group.count)]
