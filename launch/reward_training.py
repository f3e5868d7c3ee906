"""What the commands that train on labelled pairs share: options, data, an output folder that is whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import Splits
from partner_rl.types import PartnerError

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


def training_inputs(preset: str, overrides: Sequence[str], source: str) -> tuple[RunConfig, Splits]:
    """The configuration with `data.source` replaced, and its corpus in splits; sets torch's threads.

    Raises:
        PartnerError: The configuration is wrong, or the corpus cannot be read or leaves a split empty.
    """
    import torch

    from launch.pipeline import load_splits
    from launch.plan import machine_cores

    config = training_config(preset, overrides, source)
    # `accelerate launch` starts several processes on one machine.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(config.resources.driver_threads or max(1, machine_cores() // processes))
    return config, load_splits(config)


def check_output(folder: Path) -> None:
    """Refuse, before the work, a folder that holds anything but an earlier training.

    Raises:
        PartnerError: It does, or it is a file.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file()):
        raise PartnerError(f"--output {folder} exists and holds something else: name a new folder")


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that gets its final name when the block ends well and goes when it does not.

    An earlier training of this name is replaced. A block that writes nothing changes nothing: of several processes
    under `accelerate launch` only one writes.
    """
    from partner_rl.storage.atomic import folder_when_whole

    with folder_when_whole(folder) as temporary:
        yield temporary


def write_report(folder: Path, report: Mapping[str, Any], card: str) -> None:
    """Put figures and model card into a folder that is being made."""
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")


def interval_text(low: float, high: float) -> str:
    """A 95 % interval as the cards and tables show it."""
    return f"{low:.2f}–{high:.2f}"
