"""Which runs an ablation consists of: the full configuration, and one run for each thing that is changed in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, get_args

from partner_rl.config.load import Assignment, assignments, load_config
from partner_rl.config.schema import AlgorithmConfigSection, RunConfig
from partner_rl.types import PartnerError

FULL: Final = "full"
"""The run that nothing is changed in; it trains the reward models and the warm start that the others share."""

GROUP_SIZES: Final = (2, 4, 8, 16, 32)
"""`K` of the runs that change the samples of a group; the samples of an iteration stay as many."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """A change of the full configuration.

    Attributes:
        what: The change in a few words.
        shares_warm_start: Whether it starts from the full run's warm start.
    """

    name: str
    what: str
    overrides: tuple[Assignment, ...] = ()
    shares_warm_start: bool = True


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run of an ablation."""

    ablation: Ablation
    config: RunConfig


def ablations(config: RunConfig) -> list[Ablation]:
    """The full run and every change that makes a difference in this configuration.

    Left out are rewards that weigh nothing, the values that the configuration has already, and group sizes that do not
    divide the samples of an iteration.
    """
    return [Ablation(FULL, "the full configuration"), *_parts(config), *_group_sizes(config), *_estimators(config)]


def choose(found: Sequence[Ablation], only: str | None) -> list[Ablation]:
    """The full run and the named ones (`NAME,NAME`), in the order of `found`; all without names.

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


def plan(preset: str, overrides: Sequence[str], only: str | None, output: Path) -> list[PlannedRun]:
    """The runs in their order, the full one first.

    Raises:
        PartnerError: The configuration or a change of it is wrong, or there is no such ablation.
    """
    base = load_config(preset, overrides)
    runs = []
    for one in choose(ablations(base), only):
        placed = (Assignment("name", one.name), Assignment("runs_dir", str(output)))
        shared = _shared(base, one, output.absolute() / FULL) if one.name != FULL else ()
        runs.append(PlannedRun(one, load_config(preset, [*overrides, *shared, *one.overrides, *placed])))
    return runs


def _parts(config: RunConfig) -> Iterator[Ablation]:
    if config.warmstart.epochs or config.warmstart.checkpoint:
        without = (Assignment("warmstart.epochs", 0), Assignment("warmstart.checkpoint", None))
        yield Ablation("no_warm_start", "RL from the pretrained model", without, shares_warm_start=False)
    for reward, section in config.rewards.components().items():
        if section.is_active:
            gone: tuple[Assignment, ...] = (Assignment(f"rewards.{reward}.weight", 0.0),)
            # A schedule gives a weight to what has none.
            gone += (Assignment(f"rewards.{reward}.schedule", None),) if section.schedule is not None else ()
            yield Ablation(f"no_{reward}", f"without the reward {reward.replace('_', ' ')}", gone)
    if config.env.positions == "all":
        # Without a choice the position has no entropy, which is what the guard would sound the alarm about.
        end = (Assignment("env.positions", "end"), Assignment("guards.min_position_entropy", None))
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
        changes = assignments({"algorithm.samples_per_group": size, "algorithm.groups_per_iteration": groups})
        if minibatch is not None:
            if minibatch % size or groups % (minibatch // size):
                continue
            changes.append(Assignment("algorithm.minibatch_groups", minibatch // size))
        yield Ablation(f"k_{size}", f"K = {size}, {groups} groups an iteration", tuple(changes))


def _estimators(config: RunConfig) -> Iterator[Ablation]:
    for name in get_args(AlgorithmConfigSection.model_fields["advantage"].annotation):
        if name != config.algorithm.advantage:
            yield Ablation(f"estimator_{name}", f"estimator {name}", (Assignment("algorithm.advantage", name),))


def _shared(base: RunConfig, ablation: Ablation, full: Path) -> tuple[Assignment, ...]:
    """The full run's models, where the configuration names none."""
    shared = [
        Assignment(f"rewards.{reward}.checkpoint", str(full / "rewards" / reward))
        for reward in ("empathy", "coherence")
        if getattr(base.rewards, reward).checkpoint is None
    ]
    if ablation.shares_warm_start and base.warmstart.checkpoint is None:
        shared.append(Assignment("warmstart.checkpoint", str(full / "warm_start")))
    return tuple(shared)
