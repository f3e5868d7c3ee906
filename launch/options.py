"""The option `--dry-run`, apart from what it does: a command's `--help` need not load that."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated, Any, Final

import typer

REDACT_KEY: Final = "tracking.redact"
"""The configuration key that the option sets."""

RedactOption = Annotated[
    bool, typer.Option("--redact", help=f"Show and write no texts of posts ({REDACT_KEY}=true).", show_default=False)
]


def redaction(wanted: bool) -> list[str]:
    """The override that the option stands for.

    Args:
        wanted: Whether the option was given.
    """
    return [f"{REDACT_KEY}=true"] if wanted else []


_NAME: Final = "dry_run"
_context: ContextVar[typer.Context | None] = ContextVar("context", default=None)


def _remember(context: typer.Context, wanted: bool) -> bool:
    """Keeps the context of the command, whose parameters are all known when the command itself is called."""
    _context.set(context)
    return wanted


DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        callback=_remember,
        help="Show settings, processes, memory and files; start and write nothing.",
    ),
]


def given_options() -> dict[str, Any]:
    """The arguments and options of the command that is running, defaults included, as plain values."""
    context = _context.get()
    params = {} if context is None else context.params
    return {name: _plain(value) for name, value in params.items() if name != _NAME}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
