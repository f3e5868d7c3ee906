"""Settings of every test: one thread each, no network trackers, and skips for what this machine lacks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch and Ray are imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.pop("WANDB_API_KEY", None)

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests and not _has_gpu():
        _skip(gpu_tests, "needs a CUDA GPU")
    if not REAL_DATA.is_dir():
        _skip([item for item in items if item.get_closest_marker("real")], "needs ../shared/data beside the repository")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _skip(items: list[pytest.Item], reason: str) -> None:
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the public data that lies beside the repository; for tests marked `real`."""
    return REAL_DATA
