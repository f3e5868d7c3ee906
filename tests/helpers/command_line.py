"""The real command line: in this process, or as one of its own."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from unittest.mock import patch

from benchmarks.command import _status
from launch.cli import _run

COMMAND = [sys.executable, "-m", "launch.cli"]
ROOT = Path(__file__).parents[2]


def partner(*arguments: object, folder: Path) -> CompletedProcess[str]:
    """Runs a command in this process, with a folder as its working directory; what it sets is set back."""
    return in_this_process(lambda: run_here(*arguments), folder)


def in_this_process(run: Callable[[], int], folder: Path) -> CompletedProcess[str]:
    """What a function prints, and the exit status that it returns, as of a process that has ended."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.dict(os.environ),
        _own_logging(),
    ):
        status = run()
    return CompletedProcess([], status, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def benchmark(module: ModuleType, *arguments: str) -> CompletedProcess[str]:
    """Runs the command of a module of `benchmarks` in this process."""
    command = getattr(module, "command", None) or module.main
    return in_this_process(lambda: _status(command, f"python -m {module.__name__}", arguments), ROOT)


def partner_process(*arguments: object, folder: Path, **options) -> CompletedProcess[str]:
    """Runs a command as a process: for signals, for what a process leaves behind, and for what it imports."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, env=environment(), capture_output=True, text=True, **options
    )


def environment() -> dict[str, str]:
    """That of a process that is to find these sources."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_here(*arguments: object) -> int:
    """Runs a command in this process and returns its exit status; its output is that of this process."""
    return _run([str(argument) for argument in arguments])


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Handlers and level of the root logger are set back at the end of the block."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
