"""Ray and Ray Data for stages: started, kept quiet, and with errors that a user can read."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

from partner_rl.cluster.local_ray import connected
from partner_rl.cluster.nodes import cluster_nodes
from partner_rl.cluster.placement import ActorGroup, place
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.units import Unit
from partner_rl.types import PartnerError

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
    _keep_quiet()
    cpus = math.ceil(resources.workers * resources.num_cpus) + 1
    connection = connected(address, shows_workers=False, num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES)
    with ExitStack() as stack:
        with _without_stderr():
            stack.enter_context(connection)
        _check_capacity(resources)
        yield


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


def _check_capacity(resources: Resources) -> None:
    """Workers that find no place would be waited for in silence.

    Raises:
        PartnerError: They would not all find room, were the cluster theirs alone.
    """
    nodes = [replace(node, free=node.total) for node in cluster_nodes()]
    workers = ActorGroup("workers", resources.workers, resources.num_cpus, resources.num_gpus, 1)
    for name, each in workers.bundle.items():
        needed, there = workers.count * each, sum(node.total.get(name, 0.0) for node in nodes)
        if needed > there:
            raise PartnerError(
                f"{workers.count} workers with {each:g} {name}s each need {needed:g}, Ray has {there:g}: "
                "give fewer workers"
            )
    # A worker is on one node, and its fraction of a GPU on one device.
    placed = len(place([workers], nodes).placed)
    if workers.bundle and placed < workers.count:
        raise PartnerError(
            f"{workers.count} workers with {workers.cpus:g} CPUs and {workers.gpus:g} GPUs each: the {len(nodes)} "
            f"nodes of the cluster have room for {placed}; give fewer workers, or less to each"
        )


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
    # Its core warns of actors that Ray Data itself makes.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
