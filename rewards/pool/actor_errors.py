"""What Ray raises when an actor is lost or its task fails, and the words for it."""

from __future__ import annotations

from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from partner_rl.types import PartnerError

DEATHS = (RayActorError, WorkerCrashedError, ObjectLostError, OutOfMemoryError)
"""What Ray raises when an actor, its process or its node went away."""


def cause_of(error: RayTaskError) -> str:
    """What a task raised, as one line."""
    cause = error.cause if isinstance(error.cause, BaseException) else error
    if isinstance(cause, PartnerError):
        return str(cause)
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[-1][:200]}; see the actor's log"
