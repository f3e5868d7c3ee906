"""Ctrl-C as a request to stop at the next good place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from launch.console import err


@contextmanager
def stop_on_request(notice: str) -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C inside the block into a request; the second one interrupts at once.

    Only a process's main thread hears of Ctrl-C; in another thread nothing is ever requested.

    Args:
        notice: What to say at the first one, such as what is being finished.

    Yields:
        Whether a stop has been requested.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            raise KeyboardInterrupt("interrupted at once; the last state is kept")
        requested = True
        err.print(f"Ctrl-C: {notice}; press it again to stop at once")

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: requested
    finally:
        signal.signal(signal.SIGINT, previous)
