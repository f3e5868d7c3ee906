"""A real full disk: a small file system in memory, which a process mounts in a namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import ROOT, environment

MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def command_on_small_disk(folder: Path, size: str, command: list[str]) -> list[str]:
    """A command that finds a small file system in the place of a folder; nobody else sees it.

    Skips the test where the kernel does not let this user mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mounted = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", size, str(folder)]
    if shutil.which("unshare") is None or subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small file system (user namespaces are off)")
    return [*mounted, *command]


def run_on_small_disk(folder: Path, size: str, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a Python script there; its first argument is the folder."""
    command = [sys.executable, "-c", script, str(folder), *map(str, arguments)]
    return subprocess.run(
        command_on_small_disk(folder, size, command), env=environment(), cwd=ROOT, capture_output=True, text=True,
        timeout=400,
    )  # fmt: skip
