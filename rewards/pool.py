"""Pools of Ray actors that run the scorers, and the client that asks them.

The driver creates the pools (`create_pools`); any process of the cluster scores with a `RewardClient`, which finds the
actors by name. A client asks all components in parallel, each distinct item once, in micro-batches of similar
length, at most `IN_FLIGHT` to an actor.

When an actor dies, its micro-batches are sent again, to the same actor once it is back or to another; an answer is
taken once, under the micro-batch's own identity, so nothing is lost or counted twice. The time limit of a micro-batch
is kept inside the actor: a watchdog ends the process, which to the client is a death like any other. There it
measures the scoring alone, whereas a client would also measure the queue behind other clients' micro-batches, and two
clients that lose patience together would kill the actor twice.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from partner_rl import meters, waits
from partner_rl.config.reward_schema import RewardsConfig
from partner_rl.types import PartnerError, RewardBreakdown, ScoreRequest
from rewards.actor import Reply, ScorerActor
from rewards.assembly import assemble, check_rows, collect_items, name_rows
from rewards.batching import item_order
from rewards.cache import ScoreCache
from rewards.scorer import FloatArray, Item, RewardComponent, RewardDefinition

logger = logging.getLogger(__name__)

NAMESPACE = "partner-rl"
"""Ray namespace of the actors' names."""
IN_FLIGHT = 2
"""Micro-batches that a client has at one actor: one being scored, one waiting, so that the actor never idles."""
SILENCE_S = 60.0
"""Seconds without any answer after which a client says what it is waiting for."""
START_TIMEOUT_S = 900.0
"""Seconds that actors may take to start or to come back, model loading included."""
DEATHS = (RayActorError, WorkerCrashedError, ObjectLostError, OutOfMemoryError)
"""What Ray raises when an actor, its process or its node went away."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a client needs to know of one component's pool.

    Attributes:
        definition: The component.
        weight: Its weight in the reward.
        actors: Names of its actors.
        micro_batch: Items that one call to an actor scores.
        is_scheduled: Whether it is to be scored although it weighs nothing now, because its schedule gives it a weight.
    """

    definition: RewardDefinition
    weight: float
    actors: tuple[str, ...]
    micro_batch: int
    is_scheduled: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it is scored with every request; other pools are scored only when asked for."""
        return self.weight != 0.0 or self.is_scheduled


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """What a client needs to know; plain data, to be sent to any process.

    Attributes:
        pools: The pools by component name.
        timeout_s: Time limit of a micro-batch, seconds (kept by the actors; named in messages).
        max_retries: Attempts after the first before a micro-batch whose actor dies ends the run.
        cache_size: Scores that a client keeps.
    """

    pools: Mapping[str, PoolSpec]
    timeout_s: float
    max_retries: int
    cache_size: int


class RewardPools:
    """The driver's hold on the actors: they end with `shutdown`, or with the driver."""

    def __init__(self, spec: ClientSpec, actors: Sequence[Any]) -> None:
        """Take over the handles of running actors."""
        self.spec = spec
        self._actors = list(actors)

    def client(self) -> RewardClient:
        """A client of these pools."""
        return RewardClient(self.spec)

    def shutdown(self) -> None:
        """End every actor."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        self._actors.clear()

    def __enter__(self) -> Self:
        """Return the pools; leaving the block ends them."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End every actor."""
        self.shutdown()


def create_pools(
    components: Mapping[str, RewardComponent],
    settings: RewardsConfig,
    run_id: str,
    actor_threads: int,
    progress: Callable[[int, int], None] | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
    resources: Mapping[str, float] | None = None,
) -> RewardPools:
    """Start one pool a component and wait until all models are loaded.

    Args:
        components: The components; each gets a pool, also one that weighs nothing.
        settings: Replicas, CPUs, time limit, retries and cache.
        run_id: Distinguishes the actors of runs that share a cluster.
        actor_threads: Torch threads of each actor.
        progress: Called with (ready actors, all actors).
        start_timeout_s: Seconds to wait for all actors.
        resources: Custom Ray resources that each actor reserves, which choose its nodes (`resources.placement`).

    Raises:
        PartnerError: An actor cannot be placed, its process ends, or its model cannot be loaded; names the pool.
    """
    actors: dict[str, Any] = {}
    owners: dict[str, str] = {}
    pools: dict[str, PoolSpec] = {}
    try:
        for name, component in components.items():
            replicas = component.settings.replicas or settings.replicas
            names = tuple(f"{run_id}-{name}-{i}" for i in range(replicas))
            for actor_name in names:
                actors[actor_name] = _start_actor(actor_name, component, settings, actor_threads, resources or {})
                owners[actor_name] = name
            section = component.settings
            pools[name] = PoolSpec(
                component.definition, section.weight, names, section.micro_batch, section.is_scheduled
            )
        _await_actors(actors, owners, progress or (lambda done, total: None), start_timeout_s)
    except BaseException:
        for actor in actors.values():
            ray.kill(actor, no_restart=True)
        raise
    spec = ClientSpec(pools, settings.timeout_s, settings.max_retries, settings.cache_size)
    return RewardPools(spec, list(actors.values()))


def _start_actor(
    actor_name: str,
    component: RewardComponent,
    settings: RewardsConfig,
    threads: int,
    resources: Mapping[str, float],
) -> Any:
    # Torch takes its thread count from here, as the variables are set before the actor's process starts.
    environment = {
        "OMP_NUM_THREADS": str(threads),
        # Idle threads that spin would take the cores of the other actors.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    actor_class = ray.remote(ScorerActor).options(
        name=actor_name,
        namespace=NAMESPACE,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=settings.num_cpus,
        num_gpus=component.settings.num_gpus,
        resources=dict(resources),
        runtime_env={"env_vars": environment},
    )
    try:
        return actor_class.remote(component.builder, settings.timeout_s)
    except ValueError as error:
        raise PartnerError(
            f"reward actor {actor_name!r} exists already: another run uses this name; choose another run name"
        ) from error


def _await_actors(
    actors: Mapping[str, Any],
    owners: Mapping[str, str],
    progress: Callable[[int, int], None],
    timeout_s: float,
) -> None:
    deadline = time.monotonic() + timeout_s
    waiting = {actor.ready.remote(): name for name, actor in actors.items()}
    progress(0, len(actors))
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=min(SILENCE_S, max(0.0, deadline - time.monotonic())))
        for ref in done:
            _check_ready(ref, owners[waiting.pop(ref)])
            progress(len(actors) - len(waiting), len(actors))
        pools = sorted({owners[name] for name in waiting.values()})
        if waiting and time.monotonic() >= deadline:
            raise PartnerError(
                f"reward pools {pools} are not ready after {timeout_s:.0f} s: the cluster has {_free_resources()}; "
                "lower rewards.replicas, rewards.num_cpus or num_gpus, or give Ray more resources"
            )
        if waiting and not done:
            logger.warning("still waiting for reward pools %s to load their models", pools)


def _check_ready(ref: Any, pool: str) -> None:
    try:
        ray.get(ref)
    except DEATHS as error:
        raise PartnerError(
            f"reward pool {pool!r} did not start: an actor's process ended while loading its model "
            f"({type(error).__name__}); see its log in Ray's session folder, and check memory"
        ) from error
    except RayTaskError as error:
        raise PartnerError(f"reward pool {pool!r} did not start: {_cause(error)}") from error


def _cause(error: RayTaskError) -> str:
    """What a task raised, as one line."""
    cause = error.cause if isinstance(error.cause, BaseException) else error
    if isinstance(cause, PartnerError):
        return str(cause)
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[-1][:200]}; see the actor's log"


def _free_resources() -> str:
    free, total = ray.available_resources(), ray.cluster_resources()
    return ", ".join(f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s free" for kind in ("CPU", "GPU"))


@dataclass(slots=True)
class ComponentStats:
    """What a client has asked of one component so far.

    Attributes:
        scored_items: Items that actors scored.
        cache_hits: Items that were answered from the cache.
        retries: Micro-batches sent again after an actor died.
        seconds: Seconds that actors spent scoring, summed over actors.
        model_seconds: Those of them that timed scorers spent in their models (see `rewards.timing`).
        tokenizer_seconds: Those that they spent in their tokenizers.
    """

    scored_items: int = 0
    cache_hits: int = 0
    retries: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    tokenizer_seconds: float = 0.0


class RewardClient:
    """Scores requests with the pools; picklable, and cheap until its first use.

    Not for use by several threads at once.
    """

    def __init__(self, spec: ClientSpec) -> None:
        """A client of the pools of `spec`, on the cluster that the process is connected to."""
        self.spec = spec
        self._stats = {name: ComponentStats() for name in spec.pools}
        self._cache = ScoreCache(spec.cache_size)
        self._replicas: dict[str, _Replica] = {}

    def __reduce__(self) -> tuple[type[RewardClient], tuple[ClientSpec]]:
        """Send the specification alone: the receiver looks the actors up and starts with an empty cache."""
        return (RewardClient, (self.spec,))

    def score(self, requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
        """The reward of each request, all components in parallel; those that weigh nothing are left out.

        Raises:
            PartnerError: A scorer raised, answered with a wrong length, width, None, NaN or infinity, or its actors
                keep dying. Names the scorer and the request.
        """
        weights = {name: pool.weight for name, pool in self.spec.pools.items() if pool.is_active}
        definitions = [self.spec.pools[name].definition for name in weights]
        tables = {definition.name: collect_items(definition, requests) for definition in definitions}
        values = self._score_items({name: (table.items, table.first_request) for name, table in tables.items()})
        return assemble(requests, definitions, tables, values, weights)

    def score_items(self, component: str, items: Sequence[Item]) -> FloatArray:
        """One component's scores of any items, shape `[n_items, width]`; errors name the item by its index.

        Raises:
            PartnerError: As for `score`, or there is no such pool.
        """
        if component not in self.spec.pools:
            raise PartnerError(f"no reward pool {component!r}: there are {sorted(self.spec.pools)}")
        unique = list(dict.fromkeys(items))
        first = {item: i for i, item in reversed(list(enumerate(items)))}
        values = self._score_items({component: (unique, [first[item] for item in unique])})[component]
        place = {item: i for i, item in enumerate(unique)}
        return values[[place[item] for item in items]]

    def stats(self) -> dict[str, ComponentStats]:
        """Counters since this client was made, by component."""
        return {name: replace(stats) for name, stats in self._stats.items()}

    def _score_items(self, wanted: Mapping[str, tuple[Sequence[Item], Sequence[int]]]) -> dict[str, FloatArray]:
        """Scores of distinct items per component, from the cache or from the actors; `wanted` has items and rows."""
        found: dict[str, FloatArray] = {}
        queries: list[_Query] = []
        for name, (items, rows) in wanted.items():
            found[name] = np.zeros((len(items), self.spec.pools[name].definition.width), np.float32)
            missing = []
            for i, item in enumerate(items):
                row = self._cache.get(name, item)
                if row is None:
                    missing.append(i)
                else:
                    found[name][i] = row
            self._stats[name].cache_hits += len(items) - len(missing)
            if missing:
                queries.append(self._query(name, items, rows, missing))
        for query, batch, values in _run(queries, self.spec):
            found[query.name][list(batch.indices)] = values
            for item, row in zip(batch.items, values, strict=True):
                self._cache.put(query.name, item, row)
        return found

    def _query(self, name: str, items: Sequence[Item], rows: Sequence[int], missing: Sequence[int]) -> _Query:
        pool = self.spec.pools[name]
        order = sorted(missing, key=lambda i: item_order(items[i]))
        # A batch smaller than the configured one where that keeps every actor busy.
        size = min(pool.micro_batch, math.ceil(len(order) / len(pool.actors)))
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        batches = [_Batch(tuple(c), tuple(items[i] for i in c), tuple(rows[i] for i in c)) for c in chunks]
        replicas = [self._replica(actor) for actor in pool.actors]
        # The longest first: a long one that starts last would leave the other actors waiting.
        return _Query(name, pool.definition.width, deque(reversed(batches)), replicas, self._stats[name])

    def _replica(self, actor_name: str) -> _Replica:
        """The actor, with what an earlier call learnt of it: one that is still coming back is waited for."""
        if actor_name not in self._replicas:
            try:
                self._replicas[actor_name] = _Replica(actor_name, ray.get_actor(actor_name, namespace=NAMESPACE))
            except ValueError as error:
                raise PartnerError(
                    f"reward actor {actor_name!r} is not in this cluster: the driver that created it has ended "
                    "or runs on another cluster; start the run again"
                ) from error
        replica = self._replicas[actor_name]
        # What a call that ended with an error had left there.
        replica.in_flight.clear()
        return replica


@dataclass(eq=False, slots=True)
class _Batch:
    """A micro-batch: items, their place in the answer, the requests they belong to, and its failed attempts."""

    indices: tuple[int, ...]
    items: tuple[Item, ...]
    rows: tuple[int, ...]
    failures: int = 0


@dataclass(eq=False, slots=True)
class _Replica:
    """An actor as the client sees it: what it has been sent, oldest first, or the sign of life it is asked for."""

    name: str
    handle: Any
    in_flight: OrderedDict[Any, _Batch] = field(default_factory=OrderedDict)
    revival: Any = None
    revivals: int = 0


@dataclass(eq=False, slots=True)
class _Query:
    """One component's share of a call: what is still to be sent, and to whom."""

    name: str
    width: int
    queue: deque[_Batch]
    replicas: list[_Replica]
    stats: ComponentStats

    def refs(self) -> list[Any]:
        """What to wait for; nothing once all is scored, even while an actor is still coming back."""
        refs = [ref for replica in self.replicas for ref in replica.in_flight]
        if not refs and not self.queue:
            return []
        return refs + [replica.revival for replica in self.replicas if replica.revival is not None]

    @property
    def waiting(self) -> int:
        """Micro-batches that have no answer yet."""
        return len(self.queue) + sum(len(replica.in_flight) for replica in self.replicas)

    def unanswered(self) -> dict[str, int]:
        """Actor → calls that it has not answered, with what would be sent to it next."""
        sent = {r.name: len(r.in_flight) + (r.revival is not None) for r in self.replicas}
        return {name: count + len(self.queue) for name, count in sent.items() if count}

    def submit(self) -> None:
        """Send queued micro-batches to the least loaded living actors."""
        while self.queue:
            living = [r for r in self.replicas if r.revival is None and len(r.in_flight) < IN_FLIGHT]
            if not living:
                return
            replica = min(living, key=lambda r: len(r.in_flight))
            batch = self.queue.popleft()
            replica.in_flight[replica.handle.score.remote(batch.items)] = batch

    def receive(self, ref: Any, spec: ClientSpec) -> tuple[_Batch, FloatArray] | None:
        """Take what a finished reference brings: scores, or an actor's death or return."""
        replica = next(r for r in self.replicas if ref in r.in_flight or ref == r.revival)
        if ref not in replica.in_flight:
            self._revived(replica, spec)
            return None
        batch = replica.in_flight[ref]
        try:
            reply: Reply = ray.get(ref)
        except DEATHS as error:
            self._died(replica, error, spec)
            return None
        except RayTaskError as error:
            raise PartnerError(f"scorer {self.name!r} failed on {name_rows(batch.rows)}: {_cause(error)}") from error
        del replica.in_flight[ref]
        if reply.failure is not None:
            index = reply.failure.index
            where = name_rows(batch.rows if index is None else [batch.rows[index]])
            raise PartnerError(f"scorer {self.name!r} raised on {where}: {reply.failure.message}")
        values = check_rows(reply.values, self.name, self.width, batch.rows)
        self.stats.scored_items += len(batch.items)
        self.stats.seconds += reply.seconds
        self.stats.model_seconds += reply.phases.model
        self.stats.tokenizer_seconds += reply.phases.tokenizer
        meters.record(meters.POOL_ITEMS, self.name, len(batch.items))
        meters.record(meters.POOL_SECONDS, self.name, reply.seconds)
        return batch, values

    def _died(self, replica: _Replica, error: Exception, spec: ClientSpec) -> None:
        """Queue everything that the actor had, drop the references to it, and ask for a sign of life."""
        lost = list(replica.in_flight.values())
        replica.in_flight.clear()
        replica.revival = replica.handle.ready.options(max_task_retries=-1).remote()
        # Only the oldest was being scored; what waited behind it is not to blame.
        batch = lost[0]
        batch.failures += 1
        if batch.failures > spec.max_retries:
            raise PartnerError(
                f"scorer {self.name!r} lost its actor {batch.failures} times on the {len(batch.items)} items of "
                f"{name_rows(batch.rows)}: each time its process ended or took over rewards.timeout_s = "
                f"{spec.timeout_s:g} s; see the actor's log, check memory, lower rewards.{self.name}.micro_batch or "
                "raise rewards.timeout_s"
            ) from error
        logger.warning(
            "scorer %s lost an actor (%s): sending %s again (attempt %d of %d)",
            self.name, type(error).__name__, name_rows(batch.rows), batch.failures + 1, spec.max_retries + 1,
        )  # fmt: skip
        self.stats.retries += len(lost)
        meters.record(meters.RESTARTS, f"reward {self.name}", 1)
        self.queue.extendleft(reversed(lost))

    def _revived(self, replica: _Replica, spec: ClientSpec) -> None:
        revival, replica.revival = replica.revival, None
        try:
            ray.get(revival)
            replica.revivals = 0
        except DEATHS as error:
            replica.revivals += 1
            if replica.revivals > spec.max_retries:
                raise PartnerError(
                    f"reward pool {self.name!r} lost an actor that does not come back ({type(error).__name__}): "
                    "see its log in Ray's session folder, and check memory"
                ) from error
            time.sleep(min(0.2 * 2**replica.revivals, 5.0))
            replica.revival = replica.handle.ready.options(max_task_retries=-1).remote()
        except RayTaskError as error:
            raise PartnerError(f"reward pool {self.name!r} cannot restart an actor: {_cause(error)}") from error


def _run(queries: Sequence[_Query], spec: ClientSpec) -> Iterable[tuple[_Query, _Batch, FloatArray]]:
    """Drive all queries at once; yields each micro-batch's scores exactly once."""
    note, told_s = waits.Note(), 0.0
    try:
        while True:
            for query in queries:
                query.submit()
                meters.record(meters.POOL_QUEUE, query.name, query.waiting)
            owners = {ref: query for query in queries for ref in query.refs()}
            if not owners:
                return
            done, _ = ray.wait(list(owners), num_returns=1, timeout=waits.LOOK_S)
            for ref in done:
                note.heard()
                told_s = 0.0
                answer = owners[ref].receive(ref, spec)
                if answer is not None:
                    yield owners[ref], *answer
            if not done:
                silent_s = note.wait({name: calls for query in queries for name, calls in query.unanswered().items()})
                if silent_s - told_s >= SILENCE_S:
                    told_s = silent_s
                    waiting = sorted({query.name for query in owners.values()})
                    logger.warning("no answer from scorers %s for %.0f s", waiting, silent_s)
    finally:
        note.withdraw()
