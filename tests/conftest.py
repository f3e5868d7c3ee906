"""Settings of every test, and its markers: one thread each, no network trackers; what costs most comes first."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.helpers.needs import needs_of

# Before torch and Ray are imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Commands ask for as many threads as there are cores; those that wait must not hold them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's workers give way to everybody; whoever tests waits for them.
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray asks once in a process whether there is a token, and the tests of a process share it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.pop("WANDB_API_KEY", None)
# Processes that share the tests out have a terminal of 80 columns made up for them, which a console would keep.
for variable in ("COLUMNS", "LINES"):
    os.environ.pop(variable, None)
# W&B gives its own process half a minute to start, which is little on a machine that has other work.
os.environ.setdefault("WANDB__SERVICE_WAIT", "300")
os.environ.setdefault("WANDB_INIT_TIMEOUT", "300")
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
SECONDS = {"slow": 15.0, "ray": 3.0, "process": 3.0}
"""About what a test with a marker takes; one without any takes a quarter of a second."""
REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure() -> None:
    from partner_rl.cluster.local_ray import make_token

    # Before the processes that share the tests out start a Ray each.
    make_token()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for need in needs_of(item):
            item.add_marker(need)
    _costly_files_first(items)
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if gpu_tests and not _has_gpu():
        _skip(gpu_tests, "needs a CUDA GPU")
    if not REAL_DATA.is_dir():
        _skip([item for item in items if item.get_closest_marker("real")], "needs ../shared/data beside the repository")


def _costly_files_first(items: list[pytest.Item]) -> None:
    """Orders whole files, so that processes that share them out end together."""
    cost: Counter[Path] = Counter()
    for item in items:
        cost[item.path] += max((SECONDS.get(mark.name, 0.25) for mark in item.iter_markers()), default=0.25)
    # A sort keeps the order of a file's tests.
    items.sort(key=lambda item: (-cost[item.path], item.path))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A command that ran in this process has PyTorch compute on all cores: the tests after it do not."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _no_wandb() -> Iterator[None]:
    """W&B's process, and the settings that it was started with, end with the file whose tests started it."""
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()
        for name in ("WANDB_SERVICE", "WANDB_DATA_DIR"):
            os.environ.pop(name, None)


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
def commands_share_ray(local_ray: None) -> Iterator[None]:
    """Commands of a file that run in this process use its local Ray, and leave it running, with equal scorers in it."""
    from launch.training import phases
    from tests.helpers.shared_pools import SharedPools

    with pytest.MonkeyPatch.context() as patch, SharedPools() as pools:
        patch.setattr(phases, "create_pools", pools.create)
        yield


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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A quickstart on tiny models: made once for all processes that run tests, and copied for each."""
    from tests.helpers.command_line import partner_process

    folder = tmp_path_factory.mktemp("quickstart")
    # The folder of this process; beside it lie those of the others, if there are any.
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(shared / "quickstart.lock"):
        made = shared / "made" / "runs" / "tiny"
        if not (made / "summary.json").exists():
            made.parents[1].mkdir(exist_ok=True)
            settings = ["--preset", "smoke", "name=tiny", "tracking.wandb=offline"]
            result = partner_process("quickstart", *settings, folder=made.parents[1])
            assert result.returncode == 0, result.stderr
            assert "change in empathy" in result.stdout
    return Path(shutil.copytree(made, folder / "runs" / "tiny", symlinks=True))
