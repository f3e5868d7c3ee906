"""Waiting for what other processes do, however busy the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

TIMEOUT_S = 600.0
INTERVAL_S = 0.02


def wait_until(
    condition: Callable[[], bool],
    what: str | Callable[[], str],
    *,
    timeout_s: float = TIMEOUT_S,
    interval_s: float = INTERVAL_S,
    process: subprocess.Popen[str] | None = None,
) -> None:
    """Waits for a condition.

    Args:
        condition: The condition.
        what: What does not come true, for the failure; a function is asked when it is needed.
        timeout_s: Seconds to wait.
        interval_s: Seconds between two looks.
        process: Who makes it come true: it is in vain to wait when it has ended.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process is None or process.poll() is None, f"the process has ended before: {process.communicate()}"
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(interval_s)
