"""Every check, in the order in which its results are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from launch.preflight.check_result import CheckResult
from launch.preflight.cluster import check_cluster, check_token
from launch.preflight.corpus import check_data
from launch.preflight.disk import check_disk
from launch.preflight.environment import check_environment
from launch.preflight.facts import Facts
from launch.preflight.inputs import check_models
from launch.preflight.machine import check_device, check_shared_memory
from launch.preflight.memory_fit import check_gpu_memory, check_memory
from launch.preflight.packages import check_packages
from launch.preflight.wandb_access import check_wandb

CHECKS: Final[tuple[Callable[[Facts], Iterator[CheckResult]], ...]] = (
    check_packages,
    check_device,
    check_cluster,
    check_token,
    check_environment,
    check_gpu_memory,
    check_memory,
    check_shared_memory,
    check_models,
    check_data,
    check_disk,
    check_wandb,
)


def check_all(facts: Facts) -> list[CheckResult]:
    """What all checks find."""
    return [result for check in CHECKS for result in check(facts)]
