"""What the commands that train on labelled pairs share: options, data and report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import Splits
from partner_rl.storage.atomic import write_json, write_text

if TYPE_CHECKING:
    from launch.preflight.gather import EstimateMemory

DataOption = Annotated[
    str, typer.Option("--data", metavar="SOURCE", help="As data.source: sample, a folder or a file.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration keys.", show_default=False)
]
PresetOption = Annotated[str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")]

REPORT: Final = "report.json"
"""The figures of a training, in its folder."""
CARD: Final = "README.md"
"""The model card."""


def training_config(preset: str, overrides: Sequence[str], source: str) -> RunConfig:
    """The configuration with `data.source` replaced.

    Raises:
        PartnerError: The configuration is wrong.
    """
    from partner_rl.config.load import Assignment, load_config

    return load_config(preset, [*overrides, Assignment("data.source", source)])


def training_splits(config: RunConfig, key: str, writes: Mapping[Path, str], memory: EstimateMemory) -> Splits:
    """The corpus in splits, when the inputs have been looked at; sets torch's threads. A dry run ends here.

    Args:
        config: The configuration.
        key: Names the model that the training starts from.
        writes: What the training writes, by file or folder.
        memory: Estimates what it needs.

    Raises:
        PartnerError: An input is absent or damaged, or the corpus leaves a split empty.
    """
    import torch

    from launch.preflight.check_request import training_request
    from launch.preflight.command_plan import begin, training_plan
    from launch.resources.plan import machine_cores
    from launch.training.phases import load_splits

    begin(training_plan(config, training_request(key), writes, memory))
    # `accelerate launch` starts several processes on one machine.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(config.resources.driver_threads or max(1, machine_cores() // processes))
    return load_splits(config)


def write_report(folder: Path, report: Mapping[str, Any], card: str) -> None:
    """Put figures and model card into a folder that is being made."""
    write_json(folder / REPORT, report)
    write_text(folder / CARD, card)


def interval_text(low: float, high: float) -> str:
    """A 95 % interval as the cards and tables show it."""
    return f"{low:.2f}–{high:.2f}"
