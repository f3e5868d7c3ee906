"""Starting or joining Ray for the time of a command."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import torch

from launch.plan import DRIVER, Plan, machine_cores, resource_plan, share_local_gpu
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError

_QUIET = {
    "RAY_DEDUP_LOGS": "1",
    # RLlib's own advice about deprecated keys is not for our users.
    "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def place_on_this_machine(config: RunConfig) -> tuple[RunConfig, Plan]:
    """The configuration with GPUs shared out and its resource plan.

    Also sets the driver's threads, which must happen before anything is computed.
    """
    config = share_local_gpu(config, torch.cuda.device_count())
    plan = resource_plan(config, machine_cores(), torch.cuda.device_count())
    driver = plan.group(DRIVER)
    assert driver is not None
    torch.set_num_threads(driver.threads)
    return config, plan


@contextmanager
def ray_session(config: RunConfig, plan: Plan) -> Iterator[None]:
    """Joins `resources.address`, or starts a local Ray large enough for the plan; shuts down what it started.

    Raises:
        PartnerError: The cluster cannot be reached.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    address = config.resources.address
    try:
        if address is None:
            ray.init(
                num_cpus=plan.local_ray_cpus,
                num_gpus=plan.machine_gpus,
                object_store_memory=config.resources.object_store_mb * 2**20,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        else:
            ray.init(address=address, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        where = "locally" if address is None else f"at {address}"
        raise PartnerError(f"Ray cannot be started or joined {where}: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()
