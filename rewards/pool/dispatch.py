"""Micro-batches on their way to the actors and back, through the deaths of actors.

When an actor dies, its micro-batches are sent again, to the same actor once it is back or to another; an answer is
taken once, under the micro-batch's own identity, so nothing is lost or counted twice. The time limit of a micro-batch
is kept inside the actor: a watchdog ends the process, which to the client is a death like any other. There it
measures the scoring alone, whereas a client would also measure the queue behind other clients' micro-batches, and two
clients that lose patience together would kill the actor twice.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayTaskError

from partner_rl.cluster import pending_calls, ray_metrics
from partner_rl.types import PartnerError
from rewards.actor import Reply
from rewards.assembly import check_rows, name_rows
from rewards.pool.actor_errors import DEATHS, cause_of
from rewards.pool.spec import ClientSpec
from rewards.scorer import FloatArray, Item

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Micro-batches that a client has at one actor: one being scored, one waiting, so that the actor never idles."""
SILENCE_S = 60.0
"""Seconds without any answer after which the driver or a client says what it is waiting for."""


@dataclass(slots=True)
class ComponentStats:
    """What a client has asked of one component so far.

    Attributes:
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


@dataclass(eq=False, slots=True)
class Batch:
    """A micro-batch: items, their place in the answer, the requests they belong to, and its failed attempts."""

    indices: tuple[int, ...]
    items: tuple[Item, ...]
    rows: tuple[int, ...]
    failures: int = 0


@dataclass(eq=False, slots=True)
class Replica:
    """An actor as the client sees it: what it has been sent, oldest first, or the sign of life it is asked for."""

    name: str
    handle: Any
    in_flight: OrderedDict[Any, Batch] = field(default_factory=OrderedDict)
    revival: Any = None
    revivals: int = 0


@dataclass(eq=False, slots=True)
class Query:
    """One component's share of a call: what is still to be sent, and to whom."""

    name: str
    width: int
    queue: deque[Batch]
    replicas: list[Replica]
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

    def receive(self, ref: Any, spec: ClientSpec) -> tuple[Batch, FloatArray] | None:
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
            raise PartnerError(f"scorer {self.name!r} failed on {name_rows(batch.rows)}: {cause_of(error)}") from error
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
        ray_metrics.record(ray_metrics.POOL_ITEMS, self.name, len(batch.items))
        ray_metrics.record(ray_metrics.POOL_SECONDS, self.name, reply.seconds)
        return batch, values

    def _died(self, replica: Replica, error: Exception, spec: ClientSpec) -> None:
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
        ray_metrics.record(ray_metrics.RESTARTS, f"reward {self.name}", 1)
        self.queue.extendleft(reversed(lost))

    def _revived(self, replica: Replica, spec: ClientSpec) -> None:
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
            raise PartnerError(f"reward pool {self.name!r} cannot restart an actor: {cause_of(error)}") from error


def dispatch(queries: Sequence[Query], spec: ClientSpec) -> Iterator[tuple[Query, Batch, FloatArray]]:
    """Drive all queries at once; yields each micro-batch's scores exactly once."""
    entry, told_s = pending_calls.PendingCallsEntry(), 0.0
    try:
        while True:
            for query in queries:
                query.submit()
                ray_metrics.record(ray_metrics.POOL_QUEUE, query.name, query.waiting)
            owners = {ref: query for query in queries for ref in query.refs()}
            if not owners:
                return
            done, _ = ray.wait(list(owners), num_returns=1, timeout=pending_calls.LOOK_S)
            for ref in done:
                entry.heard()
                told_s = 0.0
                answer = owners[ref].receive(ref, spec)
                if answer is not None:
                    yield owners[ref], *answer
            if not done:
                silent_s = entry.report(
                    {name: calls for query in queries for name, calls in query.unanswered().items()}
                )
                if silent_s - told_s >= SILENCE_S:
                    told_s = silent_s
                    waiting = sorted({query.name for query in owners.values()})
                    logger.warning("no answer from scorers %s for %.0f s", waiting, silent_s)
    finally:
        entry.withdraw()
