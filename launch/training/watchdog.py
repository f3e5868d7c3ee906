"""The stall watchdog: names the actor that everything waits for when a run stands still.

A thread of the driver compares how long the present phase lasts with `faults.stall_s`. When it is over, every actor of
the run is sent a call that costs nothing: one that is at work, stopped or being started again does not answer. Of
those, an env runner that waits for a reward actor is not to blame; reward clients publish their pending calls
(`partner_rl.cluster.pending_calls`). What is found is logged, written to `stall.json` in the run folder for
`partner-rl watch`, and said again with growing gaps.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from launch.run_folder.record import STALL_FILE
from partner_rl.algorithm.phase_tracker import Phase, PhaseTracker
from partner_rl.cluster.pending_calls import PendingCalls, read_pending_calls
from partner_rl.cluster.ray_internals import actor_record
from partner_rl.config.schema import FaultsConfig
from partner_rl.storage.atomic import write_json
from rewards.pool import NAMESPACE, ClientSpec

logger = logging.getLogger(__name__)

ANSWER_S: Final = 5.0
"""Seconds that actors have to answer before they count as silent."""

_LOOK_S: Final = 5.0
_STOP_S: Final = 2.0
_KILL_S: Final = 60.0
_USUAL: Final = 3.0
_GAP: Final = 2.0
_ALIVE: Final = "ALIVE"
_TROUBLES: Final = {
    "RESTARTING": "being started again",
    "PENDING_CREATION": "waiting for room on a node",
    "DEPENDENCIES_UNREADY": "waiting for its arguments",
    "DEAD": "dead",
}


@dataclass(frozen=True, slots=True)
class WatchedActor:
    """An actor that the run may wait for; `ray_name` is empty for one without a name in Ray."""

    name: str
    handle: Any
    ray_name: str = ""


@dataclass(frozen=True, slots=True)
class ActorLocation:
    """What Ray's control store knows of an actor: its id, Ray's name of its state, its node's address and id.

    `trouble` says in words what is wrong with its process or state; it is empty where nothing is known.
    """

    actor: str
    state: str
    node: str
    pid: int
    trouble: str = ""
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class BlockingActor:
    """An actor that the run waits for: `seconds` since the oldest of `queue` calls without an answer."""

    name: str
    location: ActorLocation
    seconds: float
    queue: int

    def __str__(self) -> str:
        """Name, place, seconds and queue in a few words."""
        found = self.location
        place = f"node {found.node}, pid {found.pid}" if found.state == _ALIVE else "on no node"
        trouble = f", {found.trouble}" if found.trouble else ""
        calls = "1 call" if self.queue == 1 else f"{self.queue} calls"
        return f"{self.name} ({place}{trouble}), {calls} without an answer for {self.seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class Stall:
    """A phase that lasts too long.

    Attributes:
        blocking: The actors that everything waits for, the longest silent first.
        behind: Names of silent actors that wait for those.
    """

    phase: Phase
    seconds: float
    blocking: tuple[BlockingActor, ...]
    behind: tuple[str, ...]

    def __str__(self) -> str:
        """One line for the user; without any text of a post."""
        start = f"stalled: nothing has moved for {self.seconds:.0f} s in {_place(self.phase)}; "
        if not self.blocking:
            here = f"node {socket.gethostname()}, pid {os.getpid()}"
            return f"{start}every actor answers, so it is the driver itself ({here}) that is busy or waits"
        behind = f"; behind it: {', '.join(self.behind)}" if self.behind else ""
        return f"{start}it waits for {'; '.join(map(str, self.blocking))}{behind}"


def _place(phase: Phase) -> str:
    return f"phase {phase.name}" + (f" of iteration {phase.iteration}" if phase.iteration else "")


def diagnose(
    phase: Phase,
    seconds: float,
    silent: Sequence[tuple[WatchedActor, ActorLocation]],
    pending: Sequence[PendingCalls],
) -> Stall:
    """Finds the silent actors that everything waits for."""
    clients = {calls.client for calls in pending if calls.client}
    blocking, behind = [], []
    for actor, location in silent:
        if location.actor in clients:
            behind.append(actor.name)
            continue
        asked = [calls for calls in pending if calls.calls.get(actor.ray_name)]
        blocking.append(
            BlockingActor(
                actor.name,
                location,
                max((calls.seconds for calls in asked), default=seconds),
                # The driver has one call at an env runner or a learner.
                sum(calls.calls[actor.ray_name] for calls in asked) or 1,
            )
        )
    return Stall(phase, seconds, tuple(sorted(blocking, key=lambda a: -a.seconds)), tuple(behind))


def limit_of(stall_s: float, usual_s: float) -> float:
    """Seconds after which a phase counts as stalled: one that usually takes long is given more."""
    return max(stall_s, _USUAL * usual_s)


class Pinger:
    """Pings actors and remembers unanswered pings: a silent actor gets no second one, so that its queue stays short."""

    def __init__(self) -> None:
        self._calls: dict[str, Any] = {}

    def silent(self, actors: Sequence[WatchedActor], answer_s: float = ANSWER_S) -> list[WatchedActor]:
        """The actors that do not answer within `answer_s` seconds."""
        for actor in actors:
            if actor.name not in self._calls:
                handle = actor.handle
                call = handle.ready.remote() if actor.ray_name else handle.apply.remote(_present)
                self._calls[actor.name] = call
        calls = {actor.name: self._calls[actor.name] for actor in actors}
        answered, _ = ray.wait(list(calls.values()), num_returns=len(calls), timeout=answer_s) if calls else ([], [])
        quiet = []
        for actor in actors:
            if calls[actor.name] not in answered:
                quiet.append(actor)
                continue
            del self._calls[actor.name]
            if not _succeeds(calls[actor.name]):
                quiet.append(actor)
        return quiet


def _present(actor: Any) -> bool:
    """A sign of life of an env runner or a learner: RLlib's learners have no call of their own for it."""
    return True


def _succeeds(call: Any) -> bool:
    try:
        ray.get(call)
    except RayError:
        return False
    return True


def locate(handles: Sequence[Any], answer_s: float = ANSWER_S) -> list[ActorLocation]:
    """Where actors are and how their processes stand, without asking the actors; nodes have `answer_s` to tell."""
    found = [_record(handle) for handle in handles]
    troubles = _process_troubles([f for f in found if f.state == _ALIVE], answer_s)
    return [replace(f, trouble=_TROUBLES.get(f.state, "") or troubles.get((f.node_id, f.pid), "")) for f in found]


def _record(handle: Any) -> ActorLocation:
    record = actor_record(handle)
    address = record.get("Address", {})
    return ActorLocation(
        handle._actor_id.hex(),
        record.get("State", "DEAD"),
        str(address.get("IPAddress", "")),
        int(record.get("Pid", 0)),
        node_id=str(address.get("NodeID", "")),
    )


def _process_troubles(living: Sequence[ActorLocation], answer_s: float) -> dict[tuple[str, int], str]:
    """Node and process → what explains a silence, from this node and from those that answer in time."""
    pids = {node: [f.pid for f in living if f.node_id == node] for node in dict.fromkeys(f.node_id for f in living)}
    here = ray.get_runtime_context().get_node_id()
    calls = {_on(node, process_troubles).remote(pids[node]): node for node in pids if node != here}
    answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=answer_s) if calls else ([], [])
    found = [(calls[call], ray.get(call)) for call in answered if _succeeds(call)]
    if here in pids:
        found.append((here, process_troubles(pids[here])))
    return {(node, pid): trouble for node, troubles in found for pid, trouble in zip(pids[node], troubles, strict=True)}


def _on(node_id: str, function: Callable[..., Any]) -> Any:
    """A task that runs on a node, however little room it has."""
    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=place)


def kill_process(found: ActorLocation) -> None:
    """Kills an actor's process, also one that was stopped: Ray's own way of killing asks the process itself."""
    ray.get(_on(found.node_id, _kill).remote(found.pid), timeout=_KILL_S)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def watched_reward_actors(spec: ClientSpec) -> list[WatchedActor]:
    """The reward actors that are asked in training."""
    names = [name for pool in spec.pools.values() if pool.is_active for name in pool.actors]
    return [WatchedActor(f"reward actor {name}", ray.get_actor(name, namespace=NAMESPACE), name) for name in names]


def process_troubles(pids: Sequence[int]) -> list[str]:
    """What the kernel says of processes of this machine, where it explains a silence; otherwise empty."""
    return [_process_trouble(pid) for pid in pids]


def _process_trouble(pid: int) -> str:
    try:
        status = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return "its process is gone"
    return {
        psutil.STATUS_STOPPED: "stopped by a signal",
        psutil.STATUS_TRACING_STOP: "stopped by a debugger",
        psutil.STATUS_DISK_SLEEP: "waiting for a disk",
        psutil.STATUS_ZOMBIE: "its process has ended",
    }.get(status, "")


class Watchdog:
    """The watchdog's thread, for the time of a block.

    Args:
        phases: The driver's phases.
        actors: The actors of the run, asked for at each stall.
        settings: When to speak.
        run_dir: Where `stall.json` is written while the run stands still.
    """

    def __init__(
        self,
        phases: PhaseTracker,
        actors: Callable[[], Sequence[WatchedActor]],
        settings: FaultsConfig,
        run_dir: Path,
    ) -> None:
        self._phases = phases
        self._actors = actors
        self._settings = settings
        self._file = run_dir / STALL_FILE
        self._pinger = Pinger()
        self._phase: Phase | None = None
        self._due_s = 0.0
        self._is_stalled = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Starts the thread; what a killed run left in `stall.json` goes."""
        self._file.unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the thread."""
        self._over.set()
        self._thread.join(ANSWER_S + _STOP_S)
        if self._is_stalled and self._phases.current is not self._phase:
            # It has moved since the last look.
            self._go_on(self._phases.current)
        self._file.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._over.wait(min(_LOOK_S, self._settings.stall_s / 4)):
            try:
                self.look()
            except Exception as error:
                # Whatever goes wrong, the next look may tell what the run waits for.
                reason = " ".join(str(error).split())
                logger.warning("the stall watchdog cannot look (%s: %s)", type(error).__name__, reason)

    def look(self) -> None:
        """One look; speaks when it is time to."""
        phase = self._phases.current
        if phase is not self._phase:
            self._go_on(phase)
        seconds = time.monotonic() - phase.since
        if seconds < self._due_s:
            return
        self._due_s = _GAP * seconds
        silent = self._pinger.silent(self._actors())
        places = locate([actor.handle for actor in silent])
        # Asking took some seconds.
        seconds = time.monotonic() - phase.since
        stall = diagnose(phase, seconds, list(zip(silent, places, strict=True)), read_pending_calls())
        if self._over.is_set() or self._phases.current is not phase:
            return
        self._is_stalled = True
        logger.warning("%s", stall)
        write_json(self._file, {"noticed": time.time(), "message": str(stall)}, indent=None)
        self._replace(stall, seconds, silent)

    def _replace(self, stall: Stall, seconds: float, silent: Sequence[WatchedActor]) -> None:
        """Kills who is waited for, when `faults.replace_stalled_s` is over; what follows is a loss like any other.

        They are given a second chance to answer: of an actor that nobody waits for, it is not known how long it has
        been silent, and a slow moment of its machine must not cost it its life.
        """
        after_s = self._settings.replace_stalled_s
        if after_s is None:
            return
        overdue = {}
        for blocking in stall.blocking:
            if blocking.location.state != _ALIVE:
                continue
            if blocking.seconds < after_s:
                self._due_s = min(self._due_s, seconds + after_s - blocking.seconds)
            else:
                overdue[blocking.name] = blocking.location
        again = self._pinger.silent([actor for actor in silent if actor.name in overdue])
        if self._over.is_set() or self._phases.current is not stall.phase:
            return
        for actor in again:
            logger.warning("%s is killed, so that another one takes its place", actor.name)
            kill_process(overdue[actor.name])

    def _go_on(self, phase: Phase) -> None:
        """Another phase has begun."""
        if self._is_stalled and self._phase is not None:
            logger.info("goes on: %s took %.0f s", _place(self._phase), phase.since - self._phase.since)
            self._file.unlink(missing_ok=True)
        self._phase, self._is_stalled = phase, False
        self._due_s = limit_of(self._settings.stall_s, self._phases.median_seconds(phase.name))
