"""A finished run that the tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.command_line import partner


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A quickstart on tiny models."""
    folder = tmp_path_factory.mktemp("quickstart")
    result = partner("quickstart", "--preset", "smoke", "name=tiny", "tracking.wandb=offline", folder=folder)
    assert result.returncode == 0, result.stderr
    assert "change in empathy" in result.stdout
    return folder / "runs" / "tiny"
