"""Imports point down, and each package knows only what it may (the contracts stand in setup.cfg)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_import_contracts_hold() -> None:
    # A process of its own, because import-linter sets up logging for the process that it runs in.
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [program, "--config", "setup.cfg", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
