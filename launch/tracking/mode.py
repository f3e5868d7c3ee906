"""Whether W&B gets anything: the configuration and W&B's own variables, of which the most private one decides."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Literal, cast

from partner_rl.config.schema import TrackingConfig
from partner_rl.types import PartnerError

Mode = Literal["online", "offline", "disabled"]

_BY_PRIVACY: Final[tuple[Mode, ...]] = ("disabled", "offline", "online")
_MODES: Final[Mapping[str, Mode]] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
_SWITCH: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def wandb_mode(tracking: TrackingConfig) -> Mode:
    """Whether W&B's log is sent while the run goes on, stays in the run folder, or is not written.

    Of `tracking.wandb`, `WANDB_MODE` and `WANDB_DISABLED` the most private one counts. Where none is set, it is online
    with `WANDB_API_KEY` and offline without.

    Raises:
        PartnerError: A variable has a value that nobody can know the meaning of.
    """
    wishes: list[Mode] = [] if tracking.wandb == "auto" else [tracking.wandb]
    wishes += filter(None, (_mode_of_variable(), "disabled" if _has_switched_off() else None))
    if not wishes:
        wishes.append("online" if has_key() else "offline")
    return min(wishes, key=_BY_PRIVACY.index)


def has_key() -> bool:
    """Whether there is an API key in the environment."""
    return bool(os.environ.get("WANDB_API_KEY", "").strip())


def _mode_of_variable() -> Mode | None:
    return cast(Mode | None, _meaning("WANDB_MODE", _MODES))


def _has_switched_off() -> bool:
    """Whether `WANDB_DISABLED` says so."""
    return bool(_meaning("WANDB_DISABLED", _SWITCH))


def _meaning(variable: str, values: Mapping[str, object]) -> object | None:
    given = os.environ.get(variable, "").strip().lower()
    if given and given not in values:
        raise PartnerError(f"{variable}={given}: it is one of {', '.join(values)}; correct or unset it")
    return values.get(given)
