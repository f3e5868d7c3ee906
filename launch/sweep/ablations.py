"""An ablation: a sweep over the full configuration and one trial for each thing that is changed in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Final, get_args

import torch
from pydantic import JsonValue

from launch.console import typed_command
from launch.resources.plan import gpu_share, reward_actors
from launch.sweep.opening import Sweep, check_unchanged
from launch.sweep.sharing import Shares
from launch.sweep.space import Point
from launch.sweep.spec import SweepSpec
from launch.sweep.trial_records import SweepFolder
from partner_rl.config.load import assignments, load_config
from partner_rl.config.schema import AlgorithmConfigSection, RunConfig
from partner_rl.types import PartnerError

FULL: Final = "full"
"""The trial that nothing is changed in."""

GROUP_SIZES: Final = (2, 4, 8, 16, 32)
"""`K` of the trials that change the samples of a group; the samples of an iteration stay as many."""


@dataclass(frozen=True, slots=True)
class AblationFolder(SweepFolder):
    """Paths of an ablation, whose run folders lie in its own.

    Attributes:
        arguments: Those of the command that goes on with it, but for the folder.
    """

    kind: ClassVar[str] = "ablation"
    arguments: tuple[str, ...] = ()

    @property
    def resume_command(self) -> str:
        """How to go on with the ablation: by the same command."""
        return typed_command("ablate", *self.arguments, "--output", self.path)

    @property
    def trials(self) -> Path:
        """The trials' run folders."""
        return self.path


@dataclass(frozen=True, slots=True)
class Ablation:
    """A change of the full configuration: the trial's name, the change in a few words, configuration key → value."""

    name: str
    what: str
    changes: dict[str, JsonValue]

    @property
    def overrides(self) -> list[str]:
        """The change as `KEY=VALUE` texts."""
        return list(map(str, assignments(self.changes)))


def ablations(config: RunConfig) -> list[Ablation]:
    """The full configuration and every change that makes a difference in it.

    Left out are rewards that weigh nothing, the values that the configuration has already, and group sizes that do not
    divide the samples of an iteration.
    """
    return [Ablation(FULL, "the full configuration", {}), *_parts(config), *_group_sizes(config), *_estimators(config)]


def choose_ablations(found: Sequence[Ablation], only: str | None) -> list[Ablation]:
    """The full configuration and the named changes (`NAME,NAME`), in the order of `found`; all without names.

    Raises:
        PartnerError: There is no such ablation.
    """
    if only is None:
        return list(found)
    known, wanted = [one.name for one in found], {name.strip() for name in only.split(",") if name.strip()}
    for name in sorted(wanted.difference(known)):
        nearest = get_close_matches(name, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(known)}"
        raise PartnerError(f"--only {name}: this configuration has no such ablation; {hint}")
    return [one for one in found if one.name == FULL or one.name in wanted]


def open_ablation(
    preset: str, overrides: Sequence[str], only: str | None, output: Path
) -> tuple[Sweep, list[Ablation]]:
    """A new ablation, or one that goes on; nothing is written.

    The trials run one after the other, so that each has the whole machine; reward models, warm start and reward actors
    are shared by all. A change that needs a warm start of its own sets `warmstart.checkpoint` to none.

    Args:
        preset: A preset's name or a YAML file.
        overrides: `KEY=VALUE` texts that hold for all trials.
        only: Names of the ablations wanted; None for all.
        output: The ablation's folder.

    Raises:
        PartnerError: The configuration or a change of it is wrong, there is no such ablation, or the folder's trials
            were started with other settings.
    """

    def config_of(values: Any) -> RunConfig:
        return load_config(preset, [*overrides, *assignments(values)])

    base = config_of({}).model_copy(update={"name": None})
    found = ablations(base)
    chosen = choose_ablations(found, only)
    points = tuple(Point(found.index(one) + 1, one.changes, one.name) for one in chosen)
    # One trial runs at a time: it and the reward actors have the GPUs to themselves.
    gpus = gpu_share(reward_actors(base) + 1, torch.cuda.device_count())
    arguments = ("--preset", preset, *(("--only", only) if only else ()), *overrides)
    sweep = Sweep(
        folder=AblationFolder(output, arguments),
        # It has no space: its points are listed.
        spec=SweepSpec.model_construct(
            base=preset,
            space={},
            search="grid",
            share_rewards=True,
            max_concurrent=1,
            trial_gpus=gpus,
            reward_gpus=gpus,
            group=base.tracking.group,
        ),
        config_of=config_of,
        config=base,
        share=Shares(reward_models=True, warm_start=True),
        points=points,
        tried=tuple(config_of(point.values) for point in points),
        evaluates=False,
    )
    try:
        if sweep.folder.base_file.exists():
            check_unchanged(sweep)
    except PartnerError as error:
        raise PartnerError(f"{error}; or name another --output") from error
    done = max((sweep.folder.run(point.name).iterations for point in points), default=0)
    if base.algorithm.iterations < done:
        raise PartnerError(
            f"algorithm.iterations={base.algorithm.iterations}: trials of {output} have done {done} already; set it to "
            "that or more"
        )
    return sweep, chosen


def _parts(config: RunConfig) -> Iterator[Ablation]:
    if config.warmstart.epochs or config.warmstart.checkpoint:
        without: dict[str, JsonValue] = {"warmstart.epochs": 0, "warmstart.checkpoint": None}
        yield Ablation("no_warm_start", "RL from the pretrained model", without)
    for reward, section in config.rewards.components().items():
        if section.is_active:
            gone: dict[str, JsonValue] = {f"rewards.{reward}.weight": 0.0}
            if section.schedule is not None:
                # A schedule gives a weight to what has none.
                gone[f"rewards.{reward}.schedule"] = None
            yield Ablation(f"no_{reward}", f"without the reward {reward.replace('_', ' ')}", gone)
    if config.env.positions == "all":
        # Without a choice the position has no entropy, which is what the guard would sound the alarm about.
        end: dict[str, JsonValue] = {"env.positions": "end", "guards.min_position_entropy": None}
        yield Ablation("end_position", "a sentence after the last one, nowhere else", end)


def _group_sizes(config: RunConfig) -> Iterator[Ablation]:
    settings = config.algorithm
    episodes = settings.groups_per_iteration * settings.samples_per_group
    workers = max(1, settings.num_env_runners), max(1, settings.num_learners)
    minibatch = None if settings.minibatch_groups is None else settings.minibatch_groups * settings.samples_per_group
    for size in GROUP_SIZES:
        groups, rest = divmod(episodes, size)
        if size == settings.samples_per_group or rest or any(groups % count for count in workers):
            continue
        changes: dict[str, JsonValue] = {
            "algorithm.samples_per_group": size,
            "algorithm.groups_per_iteration": groups,
        }
        if minibatch is not None:
            if minibatch % size or groups % (minibatch // size):
                continue
            changes["algorithm.minibatch_groups"] = minibatch // size
        yield Ablation(f"k_{size}", f"K = {size}, {groups} groups an iteration", changes)


def _estimators(config: RunConfig) -> Iterator[Ablation]:
    for name in get_args(AlgorithmConfigSection.model_fields["advantage"].annotation):
        if name != config.algorithm.advantage:
            yield Ablation(f"estimator_{name}", f"estimator {name}", {"algorithm.advantage": name})
