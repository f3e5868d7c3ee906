"""Ray and Ray Data for stages: started, kept quiet, and with errors that a user can read."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from partner_rl.cluster.local_ray import join_ray, start_ray
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.units import Unit
from partner_rl.types import PartnerError, first_line

OBJECT_STORE_BYTES: Final = 80 * 2**20
"""Object store of a Ray that is started for a stage; only units and markers pass through it."""


@contextmanager
def local_ray(resources: Resources, address: str | None = None) -> Iterator[None]:
    """Joins a cluster, or starts a local Ray that is large enough; does nothing if one is running already.

    Args:
        resources: What the workers reserve.
        address: The cluster's address; None starts a Ray on this machine.

    Raises:
        PartnerError: The cluster cannot be reached or has too few CPUs or GPUs.
    """
    if ray.is_initialized():
        _check_room(resources)
        yield
        return
    _keep_quiet()
    try:
        if address is None:
            with _without_stderr():
                start_ray(
                    num_cpus=math.ceil(resources.workers * resources.num_cpus) + 1,
                    object_store_memory=OBJECT_STORE_BYTES,
                )
        else:
            join_ray(address, log_to_driver=False)
    except PartnerError:
        raise
    # Where a node does not come up in time, Ray raises a bare Exception.
    except Exception as error:
        where = "locally" if address is None else f"at {address}"
        raise PartnerError(f"Ray cannot be started or joined {where}: {first_line(error)}") from error
    try:
        _check_room(resources)
        yield
    finally:
        ray.shutdown()


def map_units(work: Callable[[Unit], str], units: Sequence[Unit], resources: Resources) -> Iterator[str]:
    """Applies a callable to units in actors of Ray Data, which starts an actor again that dies, without limit.

    Args:
        work: Copied into each of `resources.workers` actors; called there with one unit at a time.
        units: The units.
        resources: What the actors reserve.

    Yields:
        The answers, in the order in which they come.

    Raises:
        PartnerError: Ray itself failed.
    """
    _keep_quiet()
    items = [{"index": index} for index in range(len(units))]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        batch_size=1,
        concurrency=min(resources.workers, len(units)),
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus or None,
        fn_constructor_kwargs={"work": work, "units": tuple(units), "threads": max(1, int(resources.num_cpus))},
    )
    try:
        for row in dataset.iter_rows():
            yield str(row["answer"])
    except RayError as error:
        raise PartnerError(
            f"the workers were lost ({type(error).__name__}): is Ray running, and is there memory for "
            f"{resources.workers} workers? Run again to continue"
        ) from error


class _Worker:
    """The callable in an actor."""

    def __init__(self, work: Callable[[Unit], str], units: Sequence[Unit], threads: int) -> None:
        pa.set_cpu_count(threads)
        # Read by the Rust libraries (rensa, tokenizers) when they first start threads.
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
        self._work = work
        self._units = units

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        return {"answer": [self._work(self._units[int(index)]) for index in batch["index"]]}


def _check_room(resources: Resources) -> None:
    """Workers that find no place would be waited for in silence.

    Raises:
        PartnerError: They would not all find room, were the cluster theirs alone.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, each in (("CPU", resources.num_cpus), ("GPU", resources.num_gpus)):
        needed, there = resources.workers * each, sum(node.get(name, 0.0) for node in nodes)
        if needed > there:
            raise PartnerError(
                f"{resources.workers} workers with {each:g} {name}s each need {needed:g}, Ray has {there:g}: "
                "give fewer workers"
            )
    # A worker is on one node, and its fraction of a GPU on one device.
    room = sum(workers_on(node, resources) for node in nodes)
    if room < resources.workers:
        raise PartnerError(
            f"{resources.workers} workers with {resources.num_cpus:g} CPUs and {resources.num_gpus:g} GPUs each: the "
            f"{len(nodes)} nodes of the cluster have room for {room}; give fewer workers, or less to each"
        )


def workers_on(node: Mapping[str, float], resources: Resources) -> int:
    """How many workers a node has room for.

    Args:
        node: Resource → how much of it the node has.
        resources: What a worker reserves.
    """
    cpus, gpus = resources.num_cpus, resources.num_gpus
    by_cpu = _times(cpus, node.get("CPU", 0.0)) if cpus else resources.workers
    if not gpus:
        return by_cpu
    devices = math.floor(node.get("GPU", 0.0))
    return min(by_cpu, devices * _times(gpus, 1.0) if gpus <= 1 else _times(gpus, devices))


def _times(part: float, whole: float) -> int:
    """How often a part goes into a whole, as exactly as Ray counts."""
    return math.floor(whole / part + 1e-6)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's core tells on standard error that its log level was set. What fails raises an exception all the same."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _keep_quiet() -> None:
    """Ray Data's own progress bars and advice off; stages show theirs."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    # Its core warns of actors that Ray Data itself makes.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
