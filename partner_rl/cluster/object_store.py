"""Ray's object store when it is full.

A full store spills to the disk of its node by itself, and training does not notice. Here is what happens when that disk
is full too.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayTaskError

from partner_rl.storage.full_disk import when_there_is_room
from partner_rl.types import PartnerError


def is_full_store(error: BaseException) -> bool:
    """Whether an error, or what it was raised for in a task, says that an object store found no room."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return isinstance(cause, ObjectStoreFullError | OutOfDiskError)


def put(value: Any, wait_s: float) -> Any:
    """A reference to a value in the object store.

    While there is no room, it waits, `wait_s` seconds at most.

    Raises:
        PartnerError: There is still no room.
    """
    try:
        return when_there_is_room(lambda: ray.put(value), "Ray's object store", wait_s, is_full_store)
    except (ObjectStoreFullError, OutOfDiskError) as error:
        raise full_store() from error


def full_store() -> PartnerError:
    """What to tell the user when an object store found no room."""
    return PartnerError(
        "Ray's object store is full, and the disk that it spills to as well: make room there, raise "
        "resources.object_store_mb, and resume the run"
    )
