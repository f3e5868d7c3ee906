"""A finished run that the tests of several commands share, and patience with W&B's process on a busy machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.helpers.command_line import partner

# W&B gives its own process half a minute to start; a run goes on without it after that. Before W&B is imported, and
# inherited by the processes that tests start.
os.environ.setdefault("WANDB__SERVICE_WAIT", "300")
os.environ.setdefault("WANDB_INIT_TIMEOUT", "300")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A quickstart on tiny models: made once for all processes that run tests, and copied for each."""
    folder = tmp_path_factory.mktemp("quickstart")
    # The folder of this process; beside it lie those of the others, if there are any.
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(shared / "quickstart.lock"):
        made = shared / "made" / "runs" / "tiny"
        if not (made / "summary.json").exists():
            made.parents[1].mkdir(exist_ok=True)
            settings = ["--preset", "smoke", "name=tiny", "tracking.wandb=offline"]
            result = partner("quickstart", *settings, folder=made.parents[1])
            assert result.returncode == 0, result.stderr
            assert "change in empathy" in result.stdout
    return Path(shutil.copytree(made, folder / "runs" / "tiny", symlinks=True))
