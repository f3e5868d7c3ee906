"""`partner-rl warmstart`: supervised training of position and sentence, in one process or under `accelerate launch`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from launch.options import with_dry_run
from partner_rl.config.inputs import input_paths
from partner_rl.config.load import Assignment, load_config
from partner_rl.storage.outputs import NewFolder, check_outputs
from partner_rl.types import PartnerError


@with_dry_run
def command(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives the policy.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE, such as warmstart.epochs=3.", show_default=False)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")
    ] = "embedded",
    data: Annotated[
        Path | None,
        typer.Option(help="Examples of `partner-rl data warmstart-pairs`, instead of data.source.", show_default=False),
    ] = None,
    rewards: Annotated[
        Path | None,
        typer.Option(help="Run or folder with an empathy classifier, to measure rewrites with.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished training of --output.")] = False,
) -> None:
    """Train a policy to place and write empathic sentences, as the start of reinforcement learning.

    Example: `partner-rl warmstart --preset embedded --output warm warmstart.epochs=3`
    """
    from launch.training.resuming import refuse_preset
    from launch.training.warm_start_folder import KIND, WarmStartFolder

    folder = WarmStartFolder(output)
    if output.is_dir() and any(output.iterdir()):
        raise PartnerError(f"{output} exists: choose another --output")
    if resume:
        refuse_preset(context)
        if data or rewards:
            raise PartnerError("--resume goes on with the training's own inputs: name another place of one by its key")
        config = folder.to_resume(overrides or [])
    else:
        folder.check_new()
        config = load_config(preset, [*(overrides or []), *_given(data, rewards)])
    check_outputs([NewFolder(output, KIND)], input_paths(config))
    from launch.preflight.check_request import warm_start_request
    from launch.preflight.command_plan import begin, training_plan
    from launch.resources.memory import warm_start_memory

    writes = {output: "warm-started policy and report", folder.work: "state while it trains"}
    begin(training_plan(config, warm_start_request(config), writes, warm_start_memory))
    from launch.training.warm_start import warm_start

    warm_start(config, folder)


def _given(data: Path | None, rewards: Path | None) -> Iterator[Assignment]:
    """The options as assignments."""
    if data is not None:
        yield Assignment("warmstart.data", data)
    if rewards is not None:
        inside = rewards / "rewards" / "empathy"
        yield Assignment("rewards.empathy.checkpoint", inside if inside.is_dir() else rewards)
