"""How far a computation is: what long ones call, and what shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Progress = Callable[[int, int], None]
"""Called with what is done and all there is to do: rows, bytes, batches."""

ShowProgress = Callable[[str], AbstractContextManager[Progress]]
"""Given what is done in a few words, shows its progress for the time of a block, such as `launch.console.progress`."""


def no_progress(done: int, total: int) -> None:
    """Tells nobody."""


@contextmanager
def show_no_progress(description: str) -> Iterator[Progress]:
    """Shows nothing."""
    yield no_progress


def part_of(progress: Progress, number: int, count: int) -> Progress:
    """Takes the progress of one of `count` equal parts and tells that of them all."""
    return lambda done, total: progress(number * total + done, count * total)
