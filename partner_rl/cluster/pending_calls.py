"""Calls that processes wait for, published in the cluster's key-value store.

A client whose actors have been silent for a few seconds publishes how many calls each of them owes. The driver's
watchdog reads the entries when a run stalls, and so knows who everybody waits for, from whichever node. An entry has
no texts, and goes when an answer comes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.exceptions import RayError

from partner_rl.cluster.ray_internals import put_value, read_values, remove_value

logger = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""Seconds without an answer after which a client publishes its pending calls, and publishes them anew."""

_FRESH_S: Final = 60.0
"""An entry that was written longer ago is of a process that has ended or stands still."""
_NAMESPACE: Final = "partner-rl-pending-calls"
_STORE_ERRORS: Final = (RayError, RuntimeError, ConnectionError, OSError)


@dataclass(frozen=True, slots=True)
class PendingCalls:
    """What a process waits for.

    Attributes:
        client: Identifier of the actor that waits; empty for a driver.
        seconds: Since its last answer.
        calls: Name of an actor → calls that it has been asked for, or will be next, without an answer.
    """

    client: str
    seconds: float
    calls: Mapping[str, int]


class PendingCallsEntry:
    """This process's entry in the store."""

    def __init__(self) -> None:
        self._heard = time.monotonic()
        self._stands = False

    def heard(self) -> None:
        """An answer has come."""
        self._heard = time.monotonic()
        self.withdraw()

    def report(self, calls: Mapping[str, int]) -> float:
        """Publishes the calls, none of which has been answered since the last look.

        Returns:
            Seconds since the last answer.
        """
        seconds = time.monotonic() - self._heard
        context = ray.get_runtime_context()
        record = {
            "client": context.get_actor_id() or "",
            "seconds": seconds,
            "written": time.time(),
            "calls": {actor: count for actor, count in calls.items() if count},
        }
        try:
            put_value(context.get_worker_id(), json.dumps(record), _NAMESPACE)
            self._stands = True
        except _STORE_ERRORS as error:
            logger.warning("Ray's store takes no entry of pending calls (%s)", type(error).__name__)
        return seconds

    def withdraw(self) -> None:
        """Removes the entry, if there is one."""
        if not self._stands:
            return
        self._stands = False
        try:
            remove_value(ray.get_runtime_context().get_worker_id(), _NAMESPACE)
        except _STORE_ERRORS as error:
            logger.warning("Ray's store keeps an old entry of pending calls (%s)", type(error).__name__)


def read_pending_calls() -> list[PendingCalls]:
    """The entries of the cluster's processes that wait now, those of other runs among them."""
    found = []
    for content in read_values(_NAMESPACE):
        record: dict[str, Any] = json.loads(content)
        age = time.time() - record["written"]
        if age < _FRESH_S:
            found.append(PendingCalls(record["client"], record["seconds"] + max(0.0, age), record["calls"]))
    return found
