"""What a run meets around it: the folders of the user and of the system that it needs, and variables of other programs.

All of it is asked before anything is computed, by the code that will use it, and by `partner-rl doctor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from launch.preflight.check_request import run_request, used_inputs
from launch.preflight.check_result import CheckResult
from launch.preflight.facts import Facts
from launch.tracking.mode import wandb_mode
from partner_rl.config.schema import RunConfig
from partner_rl.models.sources import find_model
from partner_rl.models.store import CACHE_VARIABLE, cache_folder
from partner_rl.storage.full_disk import can_be_written
from partner_rl.types import PartnerError

_CACHED: Final = ("pypi", "random")
_HUB: Final = "hf"


def check_environment(facts: Facts) -> Iterator[CheckResult]:
    """What is in the way of the configuration."""
    for problem in environment_problems(facts.config):
        found, _, hint = problem.partition("; ")
        yield CheckResult("environment", "problem", found, hint)


def require_environment(config: RunConfig) -> None:
    """Refuses a run that something around it is in the way of.

    Raises:
        PartnerError: It is; the first of `environment_problems`.
    """
    for problem in environment_problems(config):
        raise PartnerError(problem)


def environment_problems(config: RunConfig) -> Iterator[str]:
    """What is in the way, each in one line with what to do behind a semicolon."""
    # Here, because Ray takes a second to import.
    from partner_rl.cluster.local_ray import session_folder

    checks: list[Callable[[], object]] = [lambda: wandb_mode(config.tracking), lambda: _check_cache(config)]
    if config.resources.address is None:
        checks.append(session_folder)
    for check in checks:
        try:
            check()
        except PartnerError as error:
            yield str(error)


def _check_cache(config: RunConfig) -> None:
    """Asks whether models that are still to be fetched or built can be kept.

    Raises:
        PartnerError: They cannot.
    """
    given = config.models.cache
    missing = [name for name in _needed(config) if _is_missing(name, given)]
    ours = [name for name in missing if name.partition(":")[0] in _CACHED]
    of_the_hub = [name for name in missing if name.partition(":")[0] == _HUB]
    if ours:
        _check_written(ours, cache_folder(given), f"{CACHE_VARIABLE} or models.cache_dir")
    if of_the_hub:
        from huggingface_hub import constants

        _check_written(of_the_hub, Path(constants.HF_HUB_CACHE), "HF_HOME")


def _check_written(models: Sequence[str], folder: Path, how: str) -> None:
    if not can_be_written(folder):
        raise PartnerError(
            f"{', '.join(models)} cannot be put into {folder}, which cannot be written; set {how} to a folder of yours"
        )


def _needed(config: RunConfig) -> list[str]:
    return sorted({one.name for one in used_inputs(config, run_request(config)) if one.kind.is_model})


def _is_missing(name: str, cache: Path | None) -> bool:
    try:
        return find_model(name, cache) is None
    except PartnerError:
        # There is none of this name: whoever loads it says so.
        return False
