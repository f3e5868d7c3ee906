"""Which environment variables a job gets, and which only its driver may see.

Ray keeps the environment variables of a job's `runtime_env` with the job: everybody who may list jobs can read them,
and they end up in the logs of its agents. So no value of the submitter's environment ever goes there. The variables
are handed to the driver apart (`launch.jobs.secrets`); the job knows their names only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from partner_rl.types import PartnerError

ALLOWED: Final = (
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_DISABLED",
    "WANDB_ENTITY",
    "WANDB_MODE",
    "WANDB_PROJECT",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)
"""Variables that go along when they are set; others must be named."""

_RAYS_OWN: Final = "RAY_"
_SECRET_ENDS: Final = ("KEY", "TOKEN", "PASSWORD", "SECRET")


def variables_to_send(environment: Mapping[str, str], named: Iterable[str]) -> dict[str, str]:
    """The variables that a job gets.

    Raises:
        PartnerError: One that is asked for is not set, or is one of Ray's own, which the cluster sets.
    """
    wanted = tuple(named)
    missing = [name for name in wanted if name not in environment]
    if missing:
        raise PartnerError(f"--env {missing[0]}: no such variable is set here; set it, or leave the option out")
    rays = [name for name in wanted if name.startswith(_RAYS_OWN)]
    if rays:
        raise PartnerError(f"--env {rays[0]}: Ray's own variables are the cluster's; leave the option out")
    return {name: environment[name] for name in dict.fromkeys([*ALLOWED, *wanted]) if environment.get(name)}


def check_arguments(arguments: Iterable[str], variables: Mapping[str, str]) -> None:
    """Checks that no secret stands on the job's command line, which everybody who may list jobs can read.

    Raises:
        PartnerError: The value of a variable that is a key or a token stands there.
    """
    secrets = {name: value for name, value in variables.items() if name.endswith(_SECRET_ENDS)}
    for argument in arguments:
        for name, value in secrets.items():
            if value in argument:
                raise PartnerError(f"the command holds the value of {name}: leave it out, it is handed over apart")
