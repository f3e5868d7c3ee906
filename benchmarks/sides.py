"""The two sides of a comparison: each a process that stays alive, works when told to, and waits otherwise."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import psutil

from benchmarks.command import DEBUG_VARIABLE
from benchmarks.work import Workload
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from rewards.pool import ClientSpec

INTERVAL_S: Final = 0.5
"""Seconds between two looks at the memory of a side that works."""
STOP_S: Final = 60.0
"""Seconds that a side may take to end."""
MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Task:
    """What a side is started with.

    Attributes:
        work: The workload.
        folder: Folder of the model.
        scorers: How to reach the reward actors; None for the free reward.
        address: The Ray that holds them.
        trl_batch: Episodes of a forward and backward pass of TRL; gradients accumulate to a whole step.
    """

    work: Workload
    folder: str
    scorers: ClientSpec | None
    address: str | None
    trl_batch: int


@dataclass(frozen=True, slots=True)
class Round:
    """What a side did in a round, which is one iteration (ours) or one optimizer step (TRL's).

    Attributes:
        seconds: Wall-clock time.
        episodes: Sampled and trained on.
        prompt_tokens: Tokens of the prompts, each counted for every episode that it belongs to.
        new_tokens: Sampled tokens of sentences.
        threads: Torch threads of the side's process.
        phases: Seconds of its parts, where the side knows them.
    """

    seconds: float
    episodes: int
    prompt_tokens: int
    new_tokens: int
    threads: int
    phases: dict[str, float]


class Commands(Protocol):
    """What a side's process hands to `serve`."""

    def round(self) -> Round:
        """Works for one round."""

    def facts(self) -> dict[str, float]:
        """Further figures, computed when asked for."""


def serve(connection: Connection, commands: Commands) -> None:
    """Answers the parent's requests by the commands' methods until it says `stop`."""
    while (request := connection.recv()) != "stop":
        connection.send(getattr(commands, request)())


class Side:
    """The parent's hold on a side's process."""

    def __init__(self, name: str, process: Any, connection: Connection, log: Path) -> None:
        self.name = name
        self._process = process
        self._connection = connection
        self._log = log
        self._own_peak = 0
        self._others_peak = 0

    def ask(self, request: str) -> Any:
        """Sends a request and waits for the answer, keeping an eye on the memory.

        Raises:
            PartnerError: The side failed.
        """
        self._connection.send(request)
        return self.answer()

    def answer(self) -> Any:
        """The next answer; the first one comes by itself when the side is ready.

        Raises:
            PartnerError: The side failed.
        """
        while not self._connection.poll(INTERVAL_S):
            self._look()
            if not self._process.is_alive() and not self._connection.poll():
                raise self._failure(f"its process ended with status {self._process.exitcode}")
        self._look()
        try:
            result = self._connection.recv()
        except EOFError:
            self._process.join(STOP_S)
            raise self._failure(f"its process ended with status {self._process.exitcode}") from None
        if isinstance(result, BaseException):
            raise self._failure(str(result))
        return result

    def peak_mib(self) -> dict[str, float]:
        """Peak resident memory, MiB: of the side's own process, and of it with all processes that it started.

        The first is the system's own high-water mark. The second adds the peak of the others, as seen several times a
        second, and counts pages that processes share once for each.
        """
        return {"process": self._own_peak / MIB, "tree": (self._own_peak + self._others_peak) / MIB}

    def stop(self) -> None:
        """Ends the process and what it started."""
        children = _children(self._process.pid)
        if self._process.is_alive():
            try:
                self._connection.send("stop")
            except OSError:
                self._process.terminate()
            self._process.join(STOP_S)
        if self._process.is_alive():
            self._process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.join(STOP_S)

    def _look(self) -> None:
        self._own_peak = max(self._own_peak, _high_water(self._process.pid))
        self._others_peak = max(self._others_peak, sum(map(_resident, _children(self._process.pid))))

    def _failure(self, message: str) -> PartnerError:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        if os.environ.get(DEBUG_VARIABLE) == "1":
            sys.stderr.write("\n".join(lines[-60:]) + "\n")
        return PartnerError(f"the side of {self.name} failed: {message} (set {DEBUG_VARIABLE}=1 for its log)")


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _high_water(pid: int) -> int:
    """Bytes of the largest resident size that a process ever had; on other systems than Linux, that it has now."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return _resident(psutil.Process(pid))
    except (OSError, psutil.Error):
        return 0


@contextmanager
def side(name: str, module: str, task: Task) -> Iterator[Side]:
    """Starts a side's process, whose first `answer` comes when it is ready; ends it with the block.

    Args:
        name: Whose side it is.
        module: Holds its program, `main(connection, task)`, which sends `"ready"` and serves. The process alone
            imports it, so that neither side pays for the other's libraries.
        task: What to work on.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "log"
        log.touch()
        ours, theirs = context.Pipe()
        process = context.Process(target=_run, args=(theirs, module, task, str(log)))
        with _threads_in_environment(task.work.threads):
            process.start()
        theirs.close()
        result = Side(name, process, ours, log)
        try:
            yield result
        finally:
            result.stop()


@contextmanager
def _threads_in_environment(threads: int) -> Iterator[None]:
    """Libraries read their number of threads when they are loaded, before the side's program can say anything."""
    wanted = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin while their side waits would take the other side's cores.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(connection: Connection, module: str, task: Task, log: str) -> None:
    """The process: everything that libraries print goes to the log, and failures to the parent."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        importlib.import_module(module).main(connection, task)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        # Its own classes may not be known to the parent.
        message = str(error) if isinstance(error, PartnerError) else f"{type(error).__name__}: {error}"
        connection.send(RuntimeError(message.strip().splitlines()[0]))
