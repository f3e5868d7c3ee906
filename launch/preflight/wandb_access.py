"""Whether metrics reach Weights & Biases."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from launch.preflight.check_result import CheckResult
from launch.preflight.facts import Facts
from launch.tracking.mode import has_key, wandb_mode
from partner_rl.config.schema import TrackingConfig
from partner_rl.types import PartnerError

_ANSWER_S: Final = 3.0
_WANDB_CLOUD: Final = "https://api.wandb.ai"


@dataclass(frozen=True, slots=True)
class WandbAccess:
    """Weights & Biases, as a run would meet it.

    Attributes:
        mode: What `tracking.wandb` comes to: `auto` is online when there is a key.
        has_key: Whether there is an API key, in the environment or in `~/.netrc`.
        is_reachable: Whether the address answers; None where nobody asked.
    """

    mode: Literal["online", "offline", "disabled"]
    has_key: bool
    address: str
    is_reachable: bool | None = None


def check_wandb(facts: Facts) -> Iterator[CheckResult]:
    """The tracker of a command that tracks; what is wrong with its variables is the environment's to say."""
    try:
        access = wandb_access(facts.config.tracking) if facts.request.tracks else None
    except PartnerError:
        return
    if access is not None:
        yield wandb_result(access)


def wandb_access(tracking: TrackingConfig) -> WandbAccess:
    """W&B as the run would meet it; asks its address only when the run would."""
    address = os.environ.get("WANDB_BASE_URL") or _WANDB_CLOUD
    mode = wandb_mode(tracking)
    asks = has_key() or _has_login(address)
    return WandbAccess(mode, asks, _without_password(address), _answers(address) if mode == "online" and asks else None)


def _has_login(address: str) -> bool:
    """Whether `wandb login` has left a key in `~/.netrc`."""
    try:
        return netrc.netrc().authenticators(urlsplit(address).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _answers(address: str) -> bool:
    """Whether a web address answers, through the proxy if there is one."""
    try:
        with urlopen(address, timeout=_ANSWER_S):
            return True
    except HTTPError:
        # A refusal is an answer.
        return True
    except (OSError, ValueError):
        return False


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)


def wandb_result(access: WandbAccess) -> CheckResult:
    """What a run would meet."""
    if access.mode == "disabled":
        return CheckResult("W&B", "ok", "off (tracking.wandb=disabled)")
    if access.mode == "offline":
        return CheckResult(
            "W&B", "ok", "offline: what is logged stays in the run folder; set WANDB_API_KEY to go online"
        )
    if not access.has_key:
        hint = "set WANDB_API_KEY, or tracking.wandb=offline; the run itself goes on without it"
        return CheckResult("W&B", "warning", "tracking.wandb=online, but there is no API key", hint)
    if access.is_reachable is False:
        hint = "the run goes on without it and keeps what it logs; or set tracking.wandb=offline"
        return CheckResult("W&B", "warning", f"{access.address} does not answer", hint)
    return CheckResult("W&B", "ok", f"online at {access.address}")
