"""What a check found: ok, warning or problem, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["ok", "warning", "problem"]

TIGHT: Final = 0.9
"""An estimate above this share of what there is gets a warning."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What the check of a name found; with `problem` the run would fail. The hint is empty where nothing is to do."""

    check: str
    status: Status
    message: str
    hint: str = ""


def has_problem(results: Iterable[CheckResult]) -> bool:
    """Whether a run would fail."""
    return any(result.status == "problem" for result in results)


def compared(check: str, message: str, hint: str, needed: float, there: float) -> CheckResult:
    """What is needed beside what there is: a problem where it is more, a warning where it is nearly all."""
    if needed > there:
        return CheckResult(check, "problem", message, hint)
    return CheckResult(check, "warning", message, hint) if needed > TIGHT * there else CheckResult(check, "ok", message)
