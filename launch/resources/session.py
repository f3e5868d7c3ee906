"""Ray for the time of a command: joined or started, with capacity for its plan."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from launch.resources.capacity import require_capacity
from launch.resources.plan import DRIVER, Plan, machine_cores, resource_plan, share_local_gpu
from partner_rl.cluster.local_ray import connected
from partner_rl.config.schema import RunConfig


def place_on_this_machine(config: RunConfig, *, scores_all: bool = True) -> tuple[RunConfig, Plan]:
    """The configuration with GPUs shared out and its resource plan.

    Also sets the driver's threads, which must happen before anything is computed. `scores_all` as in `resource_plan`.
    """
    config = share_local_gpu(config, torch.cuda.device_count())
    plan = resource_plan(config, machine_cores(), torch.cuda.device_count(), scores_all=scores_all)
    driver = plan.group(DRIVER)
    assert driver is not None
    torch.set_num_threads(driver.threads)
    return config, plan


@contextmanager
def ray_session(config: RunConfig, plan: Plan) -> Iterator[None]:
    """Joins `resources.address`, or starts a local Ray large enough for the plan; shuts down what it started.

    Raises:
        PartnerError: The cluster cannot be reached, or has no room for the plan.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    resources = config.resources
    with connected(
        resources.address,
        num_cpus=plan.local_ray_cpus,
        num_gpus=plan.machine_gpus,
        # This machine is of every kind.
        resources=dict.fromkeys(resources.placement.kinds, 1.0),
        object_store_memory=resources.object_store_mb * 2**20,
    ):
        if resources.address is not None:
            require_capacity(plan, resources.wait_for_nodes_s)
        yield
