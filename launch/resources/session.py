"""Starting or joining Ray for the time of a command."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import torch
from ray.exceptions import AuthenticationError

from launch.resources.plan import DRIVER, Plan, machine_cores, resource_plan, share_local_gpu
from launch.resources.wait_for_nodes import require_capacity
from partner_rl.cluster.local_ray import join_ray, start_ray
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError, first_line

_ANSWER_S = 5.0
_SHOWN = 300
_QUIET = {
    "RAY_DEDUP_LOGS": "1",
    # RLlib's own advice about deprecated keys is not for our users.
    "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


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
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = config.resources.address
    try:
        if address is None:
            start_ray(
                num_cpus=plan.local_ray_cpus,
                num_gpus=plan.machine_gpus,
                # This machine is of every kind.
                resources=dict.fromkeys(config.resources.placement.kinds, 1.0),
                object_store_memory=config.resources.object_store_mb * 2**20,
            )
        else:
            join(address)
    except PartnerError:
        raise
    # Where a node does not come up in time, Ray raises a bare Exception.
    except Exception as error:
        reason = first_line(error)
        raise PartnerError(f"Ray cannot be started on this machine: {reason}") from error
    try:
        if address is not None:
            require_capacity(plan, config.resources.wait_for_nodes_s)
        yield
    finally:
        ray.shutdown()


def join(address: str) -> None:
    """Joins a cluster.

    Raises:
        PartnerError: There is no cluster, or it turns this process away.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        # Ray itself would try for a minute.
        try:
            socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
        except OSError as error:
            reason = error.strerror or error
            raise PartnerError(f"no Ray cluster answers at {address} (resources.address): {reason}") from error
    try:
        join_ray(address)
    except AuthenticationError as error:
        raise PartnerError(
            f"the Ray cluster at {address} turns this process away: set RAY_AUTH_MODE=token, and put its token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        # Of versions that differ, Ray tells in several lines.
        reason = " ".join(str(error).split())[:_SHOWN]
        raise PartnerError(f"Ray cannot be joined at {address} (resources.address): {reason}") from error
