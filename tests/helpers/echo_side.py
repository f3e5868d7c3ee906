"""A side for tests: takes memory when told to, itself and in a process that it starts; breaks when its model is bad."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.sides import INTERVAL_S, MIB, Round, Task, serve
from partner_rl.types import PartnerError

CHILD = f"import time; held = bytearray(b'x') * (64 * {MIB}); print('held', flush=True); time.sleep(600)"
WAIT_S = 120.0
"""How long the held memory waits to be seen."""


class Echo:
    def __init__(self, seen: Path) -> None:
        """Take memory that is held until somebody has seen it, who then makes a file."""
        self._seen = seen

    def round(self) -> Round:
        held = b"x" * (96 * MIB)
        with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            deadline = time.monotonic() + WAIT_S
            while not self._seen.exists() and time.monotonic() < deadline:
                time.sleep(INTERVAL_S / 10)
            child.kill()
        return Round(0.1, len(held) // MIB, 0, 0, int(os.environ["OMP_NUM_THREADS"]), {})

    def facts(self) -> dict[str, float]:
        return {"pid": os.getpid()}


def main(connection: Connection, task: Task) -> None:
    if task.work.model == "broken":
        raise PartnerError("something eats the memory")
    connection.send("ready")
    serve(connection, Echo(Path(task.folder)))
