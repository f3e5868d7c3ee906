"""A side for tests: takes memory when told to, itself and in a process that it starts; breaks when its model is bad."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection

from benchmarks.sides import INTERVAL_S, MIB, Round, Task, serve
from partner_rl.types import PartnerError

CHILD = f"import time; held = bytearray(b'x') * (64 * {MIB}); print('held', flush=True); time.sleep(60)"


class Echo:
    def round(self) -> Round:
        held = b"x" * (96 * MIB)
        with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(3 * INTERVAL_S)
            child.kill()
        return Round(0.1, len(held) // MIB, 0, 0, int(os.environ["OMP_NUM_THREADS"]), {})

    def facts(self) -> dict[str, float]:
        return {"pid": os.getpid()}


def main(connection: Connection, task: Task) -> None:
    if task.work.model == "broken":
        raise PartnerError("something eats the memory")
    connection.send("ready")
    serve(connection, Echo())
