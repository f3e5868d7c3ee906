"""Options that several commands have, and how the one that runs is asked for its plan alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Annotated, Any, Final

import typer

REDACT_KEY: Final = "tracking.redact"
"""The configuration key that the option sets."""

RedactOption = Annotated[
    bool, typer.Option("--redact", help=f"Show and write no texts of posts ({REDACT_KEY}=true).", show_default=False)
]


def redaction(wanted: bool) -> list[str]:
    """The override that the option stands for."""
    return [f"{REDACT_KEY}=true"] if wanted else []


_dry_run: ContextVar[Mapping[str, Any] | None] = ContextVar("dry_run", default=None)
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show settings, processes, memory and files; start and write nothing.")
]


def with_dry_run(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command `--dry-run`, with which `launch.preflight.command_plan.begin` shows its plan and ends it."""

    @wraps(command)
    def run(*, dry_run: bool, **options: Any) -> None:
        plain = {name: _plain(value) for name, value in options.items() if not isinstance(value, typer.Context)}
        before = _dry_run.set(plain if dry_run else None)
        try:
            command(**options)
        finally:
            _dry_run.reset(before)

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("dry_run", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_DryRun)
    # What Typer reads.
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    return run


def dry_run_options() -> Mapping[str, Any] | None:
    """The arguments and options of the command that runs with `--dry-run`, defaults included; None without it."""
    return _dry_run.get()


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
