"""The client of the pools: distinct items, cached scores, and the micro-batches of the rest."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import ray

from partner_rl.types import PartnerError, RewardBreakdown, ScoreRequest
from rewards.assembly import assemble, collect_items
from rewards.batching import item_order
from rewards.cache import ScoreCache
from rewards.pool.dispatch import Batch, ComponentStats, Query, Replica, dispatch
from rewards.pool.spec import NAMESPACE, ClientSpec
from rewards.scorer import FloatArray, Item


class RewardClient:
    """Scores requests with the pools; picklable, and cheap until its first use.

    Not for use by several threads at once.
    """

    def __init__(self, spec: ClientSpec) -> None:
        """A client of the pools of `spec`, on the cluster that the process is connected to."""
        self.spec = spec
        self._stats = {name: ComponentStats() for name in spec.pools}
        self._cache = ScoreCache(spec.cache_size)
        self._replicas: dict[str, Replica] = {}

    def __reduce__(self) -> tuple[type[RewardClient], tuple[ClientSpec]]:
        """Send the specification alone: the receiver looks the actors up and starts with an empty cache."""
        return (RewardClient, (self.spec,))

    def score(self, requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
        """The scores of each request, all components in parallel; those that weigh nothing are left out.

        Raises:
            PartnerError: A scorer raised, answered with a wrong length, width, None, NaN or infinity, or its actors
                keep dying. Names the scorer and the request.
        """
        definitions = [pool.definition for pool in self.spec.pools.values() if pool.is_active]
        tables = {definition.name: collect_items(definition, requests) for definition in definitions}
        values = self._score_items({name: (table.items, table.first_request) for name, table in tables.items()})
        return assemble(requests, definitions, tables, values)

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
        queries: list[Query] = []
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
        for query, batch, values in dispatch(queries, self.spec):
            found[query.name][list(batch.indices)] = values
            for item, row in zip(batch.items, values, strict=True):
                self._cache.put(query.name, item, row)
        return found

    def _query(self, name: str, items: Sequence[Item], rows: Sequence[int], missing: Sequence[int]) -> Query:
        pool = self.spec.pools[name]
        order = sorted(missing, key=lambda i: item_order(items[i]))
        # A batch smaller than the configured one where that keeps every actor busy.
        size = min(pool.micro_batch, math.ceil(len(order) / len(pool.actors)))
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        batches = [Batch(tuple(c), tuple(items[i] for i in c), tuple(rows[i] for i in c)) for c in chunks]
        replicas = [self._replica(actor) for actor in pool.actors]
        # The longest first: a long one that starts last would leave the other actors waiting.
        return Query(name, pool.definition.width, deque(reversed(batches)), replicas, self._stats[name])

    def _replica(self, actor_name: str) -> Replica:
        """The actor, with what an earlier call learnt of it: one that is still coming back is waited for."""
        if actor_name not in self._replicas:
            try:
                self._replicas[actor_name] = Replica(actor_name, ray.get_actor(actor_name, namespace=NAMESPACE))
            except ValueError as error:
                raise PartnerError(
                    f"reward actor {actor_name!r} is not in this cluster: the driver that created it has ended "
                    "or runs on another cluster; start the run again"
                ) from error
        replica = self._replicas[actor_name]
        # What a call that ended with an error had left there.
        replica.in_flight.clear()
        return replica
