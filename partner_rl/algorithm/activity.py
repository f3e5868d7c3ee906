"""What the driver is at: told by the driver, read by the thread that looks for stalls (`launch.training.watchdog`)."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass
from statistics import median
from typing import Final

START: Final = "start"
SAMPLE: Final = "sample"
UPDATE: Final = "update"
SYNC: Final = "sync"
LOG: Final = "log"
CHECKPOINT: Final = "checkpoint"
EVALUATE: Final = "evaluate"
EXPORT: Final = "export"
STOP: Final = "stop"

_REMEMBERED: Final = 9


@dataclass(frozen=True, slots=True)
class Doing:
    """What the driver does at a moment.

    Attributes:
        phase: One of the names above.
        iteration: Counted from 1; 0 before the first one.
        since: When it began, by `time.monotonic`.
    """

    phase: str = START
    iteration: int = 0
    since: float = 0.0


class Activity:
    """The driver's present phase, and how long each phase takes as a rule.

    One thread tells, any other may read: what is read is replaced whole.
    """

    def __init__(self) -> None:
        """Begins with the start of the run."""
        self.doing = Doing(START, 0, time.monotonic())
        self._seconds: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def begin(self, phase: str, iteration: int | None = None) -> None:
        """A phase begins, and with it the one before ends; the same phase again is progress in it.

        Args:
            phase: One of the names above.
            iteration: The iteration that it belongs to; None for that of the phase before.
        """
        before = self.doing
        self.doing = Doing(phase, before.iteration if iteration is None else iteration, time.monotonic())
        self._seconds[before.phase].append(self.doing.since - before.since)

    def usual_seconds(self, phase: str) -> float:
        """What the phase took lately, as a median; 0 when it has not ended yet."""
        known = self._seconds.get(phase)
        return median(known) if known else 0.0
