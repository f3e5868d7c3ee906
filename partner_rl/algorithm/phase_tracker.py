"""Which phase of training the driver is in; the thread that looks for stalls reads it (`launch.training.watchdog`)."""

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
class Phase:
    """A phase that the driver is in; its iteration counts from 1, `since` is by `time.monotonic`."""

    name: str = START
    iteration: int = 0
    since: float = 0.0


class PhaseTracker:
    """The driver's current phase, and how long each phase takes as a rule.

    One thread tells, any other may read: `current` is replaced whole.
    """

    def __init__(self) -> None:
        self.current = Phase(START, 0, time.monotonic())
        self._seconds: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def begin(self, name: str, iteration: int | None = None) -> None:
        """A phase begins, and with it the one before ends; the same phase again is progress in it.

        An iteration of None is that of the phase before.
        """
        before = self.current
        self.current = Phase(name, before.iteration if iteration is None else iteration, time.monotonic())
        self._seconds[before.name].append(self.current.since - before.since)

    def median_seconds(self, name: str) -> float:
        """Median duration of the phase's latest occurrences; 0 when none has ended yet."""
        known = self._seconds.get(name)
        return median(known) if known else 0.0
