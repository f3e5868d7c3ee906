"""Requests to stop: Ctrl-C, TERM, HUP and USR1. The first means the next good place, a second one means at once.

A terminal sends INT, a scheduler, a container or `kill` TERM, a lost connection HUP, and SLURM what it is asked to. All
raise KeyboardInterrupt, which a block of `stop_on_request` puts off. A signal that was ignored when the process was
started stays so: that is how `nohup` keeps a command from a HUP, and a shell its background jobs from Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final

from launch.console import err

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
INTERRUPTED: Final = 130
"""Exit status of a command that one of them has ended, whichever it was."""
TOGETHER_S: Final = 1.0
"""Signals of so little time are one request: the kernel and the shell both tell of a lost terminal, service managers
send TERM with HUP. A second Ctrl-C is somebody's wish, however soon it comes."""


@dataclass
class _Deferral:
    """A block that puts a stop off."""

    notice: str
    requested: bool = False


@dataclass
class _Requests:
    """What this process has been asked.

    Attributes:
        at: When it came, on the monotonic clock.
        deferral: The block that the process is in, if it puts stops off.
    """

    first: str | None = None
    at: float = 0.0
    deferral: _Deferral | None = None


_requests: _Requests = _Requests()


def received() -> str | None:
    """Name of the signal that has asked this process to stop, such as `SIGTERM`; None if none has."""
    return _requests.first


@contextmanager
def heed_signals() -> Iterator[None]:
    """Makes requests of the signals that come inside of the block; does nothing in a thread other than the main one."""
    global _requests
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    new = [number for number, handler in found.items() if handler not in (signal.SIG_IGN, _heed)]
    before = _requests
    if new:
        _requests = _Requests()
    for number in new:
        signal.signal(number, _heed)
    try:
        yield
    finally:
        for number in new:
            # None stands for a handler that was not set in Python.
            signal.signal(number, found[number] or signal.SIG_DFL)
        if new:
            _requests = before


@contextmanager
def resumable_by(command: str) -> Iterator[None]:
    """Tells, when a request to stop ends the block, which command goes on with it."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"interrupted; go on with: {command}") from interrupt


@contextmanager
def stop_on_request(notice: str) -> Iterator[Callable[[], bool]]:
    """Turns the first signal inside of the block into a request; a second one interrupts at once.

    Only a process's main thread hears of signals; in another thread nothing is ever requested.

    `notice` says at the request what is being finished, for example.

    Yields:
        Whether a stop has been requested.

    Raises:
        KeyboardInterrupt: The block has ended without having looked whether there is a request.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    with heed_signals():
        own, before = _Deferral(notice), _requests.deferral
        _requests.deferral = own
        try:
            yield lambda: own.requested
        finally:
            _requests.deferral = before
        if own.requested:
            raise KeyboardInterrupt


def _heed(number: int, frame: FrameType | None) -> None:
    now, is_first = time.monotonic(), _requests.first is None
    if is_first:
        _requests.first, _requests.at = signal.Signals(number).name, now
    elif number != signal.SIGINT and now - _requests.at < TOGETHER_S:
        return
    deferral = _requests.deferral
    if deferral is None or deferral.requested:
        raise KeyboardInterrupt("" if is_first else "interrupted at once; the last state is kept")
    deferral.requested = True
    if number == signal.SIGINT:
        _say(f"Ctrl-C: {deferral.notice}; press it again to stop at once")
    else:
        _say(f"{_requests.first}: {deferral.notice}; a second signal stops at once")


def _say(line: str) -> None:
    try:
        err.print(line, soft_wrap=True)
    except RuntimeError:
        # The signal came while standard error was being written to.
        os.write(2, f"{line}\n".encode())
