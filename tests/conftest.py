"""Settings of every test: one thread each, no network trackers, and skips for what this machine lacks."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch and Ray are imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray asks once in a process whether there is a token, and the tests of a process share it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.pop("WANDB_API_KEY", None)
# A shell that runs the tests in the background has its children ignore Ctrl-C, and theirs, as `nohup` does HUP: tests
# send them.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

# How long an example takes says nothing on a machine that has other work.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

RAY_CPUS = 8
RAY_STARTS = 3
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    from partner_rl.cluster.local_ray import make_token

    # Before the processes that share the tests out start a Ray each.
    make_token()


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


@pytest.fixture(scope="module")
def local_ray() -> None:
    """A Ray of this machine; it stays up for the next file of the same process that asks for one."""
    import ray

    if ray.is_initialized() and ray.cluster_resources().get("CPU") != RAY_CPUS:
        # Somebody else's, in which actors might wait for room for ever.
        ray.shutdown()
    for attempt in range(1, RAY_STARTS + 1):
        if ray.is_initialized():
            return
        try:
            # Without the address it would join a cluster that another process of these tests has just started.
            ray.init(
                address="local",
                num_cpus=RAY_CPUS,
                object_store_memory=200 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
            )
        except Exception as error:
            # Ray gives a node half a minute, which is little on a machine that has other work.
            if "timed out during startup" not in str(error) or attempt == RAY_STARTS:
                raise
            ray.shutdown()


@pytest.fixture(scope="module")
def no_ray() -> Iterator[None]:
    """Before and after tests that start a Ray of their own, there is none."""
    import ray

    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the public data that lies beside the repository; for tests marked `real`."""
    return REAL_DATA
