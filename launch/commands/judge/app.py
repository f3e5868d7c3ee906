"""`partner-rl judge`: train the held-out judge, and judge pairs with it."""

from __future__ import annotations

from typing import Final

import typer

from launch.lazy import LazyCommand, lazy_group

COMMANDS: Final = {
    "train": LazyCommand("launch.commands.judge.train", "command", "Train the held-out judge on labelled pairs."),
    "score": LazyCommand("launch.commands.judge.score", "command", "Judge the responses of a file of pairs."),
}

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    help="Train and apply the held-out judge of empathy, which no policy is trained against.",
    no_args_is_help=True,
)


# A group without a callback and with nothing registered would not be a group.
@app.callback()
def _root() -> None:
    """Train and apply the held-out judge of empathy, which no policy is trained against."""
