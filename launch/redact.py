"""The option `--redact`: posts are sensitive, and some may not even stand in the files of a run."""

from __future__ import annotations

from typing import Annotated, Final

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
