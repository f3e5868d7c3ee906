"""Copies of the test process that write, and may be killed or be somebody else."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from typing import Final

NOBODY: Final = 65534


def in_a_child(action: Callable[[], object], user: int | None = None) -> int:
    """Runs an action in a copy of this process; returns its exit code, negative for a signal.

    Args:
        action: What to do; 0 says that it has ended well.
        user: Whom the process belongs to; None for the same user.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            # What an earlier test has left of Ray would be let go under locks that threads of the parent hold for ever.
            gc.disable()
            if user is not None and os.getuid() == 0:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_self() -> None:
    """Ends this process as the kernel does it when there is no memory."""
    os.kill(os.getpid(), signal.SIGKILL)
