"""`partner-rl rewards`: train the reward models, score pairs with them, measure how fast they are."""

from __future__ import annotations

from typing import Final

import typer

from launch.lazy import LazyCommand, lazy_group

TRAIN_COMMANDS: Final = {
    "empathy": LazyCommand("launch.commands.rewards.train_empathy", "command", "Train the empathy classifier."),
    "coherence": LazyCommand("launch.commands.rewards.train_coherence", "command", "Train the coherence classifier."),
    "mi": LazyCommand(
        "launch.commands.rewards.train_mi", "command", "Fine-tune the two dialogue models of mutual information."
    ),
}

COMMANDS: Final = {
    "score": LazyCommand("launch.commands.rewards.score", "command", "Score pairs with every reward."),
    "bench": LazyCommand("launch.commands.rewards.bench", "command", "Measure each scorer's speed."),
}

app = typer.Typer(cls=lazy_group(COMMANDS), help="Train, apply and measure the reward models.", no_args_is_help=True)
train_app = typer.Typer(cls=lazy_group(TRAIN_COMMANDS), help="Train a reward model.", no_args_is_help=True)
app.add_typer(train_app, name="train")


# A group without a callback and with nothing registered would not be a group.
@app.callback()
def _root() -> None:
    """Train, apply and measure the reward models."""


@train_app.callback()
def _train() -> None:
    """Train a reward model."""
