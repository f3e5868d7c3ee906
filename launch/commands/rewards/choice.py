"""Which reward models a command is to use: those of a run, or those that options name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from partner_rl.config.load import given, load_config
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from rewards.scorer import RewardComponent

OverridesArgument = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration keys.")]
RunOption = Annotated[Path | None, typer.Option(help="Use the models of this run.", show_default=False)]
EmpathyOption = Annotated[Path | None, typer.Option(help="An empathy classifier's folder.", show_default=False)]
CoherenceOption = Annotated[Path | None, typer.Option(help="A coherence classifier's folder.", show_default=False)]
PresetOption = Annotated[str, typer.Option(help="Configuration without --run: a preset or a YAML file.")]

_NO_RUN = Path("no-run")
"""Stands in the place of a run folder that nothing is read from."""


def chosen_config(
    run: Path | None, preset: str, overrides: Sequence[str] | None, empathy: Path | None, coherence: Path | None
) -> RunConfig:
    """The configuration of a run or of a preset, with classifiers that are named apart.

    The `config.yaml` of a run takes the preset's place.

    Raises:
        PartnerError: There is no such run or preset, or an override is wrong.
    """
    from launch.run_folder.folder import RunFolder

    folder = None if run is None else RunFolder.open(run)[0]
    named = given({"rewards.empathy.checkpoint": empathy, "rewards.coherence.checkpoint": coherence})
    return load_config(preset if folder is None else str(folder.config_file), [*(overrides or ()), *named])


def chosen_names(only: str | None) -> tuple[str, ...]:
    """The reward components of `--only`, in the registry's order; without it those that measure any response.

    Raises:
        PartnerError: There is no such component.
    """
    from partner_rl.config.reward_schema import RewardsConfig
    from rewards.registry import COMPONENTS

    if only is None:
        return tuple(name for name in COMPONENTS if getattr(RewardsConfig(), name).measures)
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    unknown = sorted(set(wanted) - COMPONENTS.keys())
    if unknown or not wanted:
        raise PartnerError(f"--only {only}: give one or more of {', '.join(COMPONENTS)}, separated by commas")
    return tuple(name for name in COMPONENTS if name in wanted)


def chosen_components(config: RunConfig, run: Path | None, names: tuple[str, ...]) -> Mapping[str, RewardComponent]:
    """The components by name, whatever they weigh.

    `run` holds the classifiers that the configuration names no folder for.

    Raises:
        PartnerError: A classifier is asked for that neither the run nor an option names.
    """
    from rewards.registry import COMPONENTS

    folders = {"empathy": config.rewards.empathy.checkpoint, "coherence": config.rewards.coherence.checkpoint}
    for name in names:
        if run is None and name in folders and folders[name] is None:
            raise PartnerError(
                f"no {name} classifier is named: give --run RUN or --{name} FOLDER, or leave it out with --only"
            )
    return {name: COMPONENTS[name](config, run or _NO_RUN) for name in names}
