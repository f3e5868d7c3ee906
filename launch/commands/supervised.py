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
from partner_rl.storage.outputs import NewFolder, check_outputs

if TYPE_CHECKING:
    from launch.preflight.facts import EstimateMemory

DataOption = Annotated[
    str, typer.Option("--data", metavar="SOURCE", help="As data.source: sample, a folder or a file.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration keys.", show_default=False)
]
PresetOption = Annotated[str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")]

REPORT: Final = "report.json"
"""The metrics of a training, in its folder."""


def training_config(preset: str, overrides: Sequence[str] | None, source: str) -> RunConfig:
    """The configuration with `data.source` replaced.

    Raises:
        PartnerError: The configuration is wrong.
    """
    from partner_rl.config.load import Assignment, load_config

    return load_config(preset, [*(overrides or ()), Assignment("data.source", source)])


def training_splits(config: RunConfig, base: str, outputs: Mapping[NewFolder, str], memory: EstimateMemory) -> Splits:
    """The corpus in splits, when outputs and inputs have been looked at; sets torch's threads. A dry run ends here.

    `base` is the key of the model that the training starts from.

    Raises:
        PartnerError: An output cannot be written, an input is absent or damaged, or the corpus leaves a split empty.
    """
    import torch

    from launch.preflight.check_request import training_request
    from launch.preflight.command_plan import begin, training_plan
    from launch.resources.plan import machine_cores
    from launch.training.phases import load_splits
    from partner_rl.config.inputs import input_paths

    check_outputs(list(outputs), input_paths(config))
    writes = {folder.path: what for folder, what in outputs.items()}
    begin(training_plan(config, training_request(base), writes, memory))
    # `accelerate launch` starts several processes on one machine.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(config.resources.driver_threads or max(1, machine_cores() // processes))
    return load_splits(config)


def write_report(folder: Path, report: Mapping[str, Any], card: str) -> None:
    """Put metrics and model card into a folder that is being made."""
    from partner_rl.models.cards import CARD

    write_json(folder / REPORT, report)
    write_text(folder / CARD, card)


def origin(config: RunConfig) -> dict[str, object]:
    """What decides on the data of a training, for its report; of a local path the last part."""
    return {"data": Path(config.data.source).name, "split_salt": config.data.split_salt, "seed": config.seed}
