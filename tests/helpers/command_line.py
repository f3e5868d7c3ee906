"""The real command line as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from launch.cli import _run

COMMAND = [sys.executable, "-m", "launch.cli"]
ROOT = Path(__file__).parents[2]


def partner(*arguments: object, folder: Path, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, **options
    )


def run_here(*arguments: object) -> int:
    """Runs a command in this process and returns its exit status."""
    return _run([str(argument) for argument in arguments])
