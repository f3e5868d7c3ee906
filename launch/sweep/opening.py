"""A sweep before its trials run: checked whole, and compared with what it began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from launch.console import typed_command
from launch.preflight.check_request import model_facts, run_request
from launch.preflight.disk import run_bytes
from launch.preflight.environment import require_environment
from launch.preflight.machine import local_machine
from launch.resources.memory import Shapes, run_memory
from launch.resources.plan import machine_cores, resource_plan
from launch.resources.session import ray_session
from launch.run_folder.fingerprints import (
    Fingerprints,
    allowed_changes,
    check_present,
    inputs_of,
    read_fingerprints,
    settings_of,
)
from launch.sweep.sharing import Shares, check_scorers, incomparable_objectives, shared_keys, shares
from launch.sweep.sizing import Sizing, check_reservations, on_gpus, sizing, trials_in_memory
from launch.sweep.space import ConfigOf, Point, checked_configs, config_maker, planned_points
from launch.sweep.spec import SweepSpec, read_spec, spec_yaml
from launch.sweep.trial_records import SweepFolder
from launch.training.phases import load_splits
from partner_rl.config.inputs import NamedInput, input_paths
from partner_rl.config.load import save_config
from partner_rl.config.paths import Kind
from partner_rl.config.schema import RunConfig
from partner_rl.storage.atomic import write_text
from partner_rl.storage.fingerprint import fingerprint_of
from partner_rl.storage.outputs import GrowingFolder, check_outputs
from partner_rl.types import PartnerError

logger = logging.getLogger(__name__)

_COMPARED: Final = (
    *("space", "search", "seed", "scheduler", "scheduler_metric", "evaluate_every"),
    *("grace_iterations", "reduction_factor", "pbt_quantile", "split"),
)
"""Keys of a spec that decide which trials there are and how they compare."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep that was checked.

    Attributes:
        config: The configuration that trials change.
        points: All trials; None where Optuna proposes them as results come in.
        tried: Configurations of the points; without points, those with each swept key's extreme values.
        incomparable: Swept key → objectives that are measured with what it changes: trials do not compare in them.
        evaluates: Whether each trial is evaluated at its end, by itself. Where all of them are evaluated together
            later, finished ones go on when the configuration has changed since, such as to more iterations.
    """

    folder: SweepFolder
    spec: SweepSpec
    config_of: ConfigOf
    config: RunConfig
    share: Shares
    points: tuple[Point, ...] | None
    tried: tuple[RunConfig, ...]
    incomparable: Mapping[str, Sequence[str]] = field(default_factory=dict)
    evaluates: bool = True

    @property
    def placed(self) -> RunConfig:
        """The configuration, on this machine's GPUs if it has any."""
        return on_gpus(self.spec, self.config, torch.cuda.device_count())

    @property
    def _shapes(self) -> Shapes:
        """Sizes of the models, as far as they are here."""
        return {fact.key: fact.shape for fact in model_facts(self.config, run_request(self.config))}

    def sized(self, trials: int) -> Sizing:
        """The resources of that many trials."""
        config, cores, gpus = self.placed, machine_cores(), torch.cuda.device_count()
        plan = resource_plan(config, cores, gpus)
        needs = run_memory(config, plan, self._shapes)
        in_memory = trials_in_memory(self.spec, plan, needs, local_machine().free_memory)
        return sizing(self.spec, config, trials, cores, gpus, in_memory)

    def trial_bytes(self) -> int | None:
        """What a trial leaves on the disk; None where the policy's sizes are not known."""
        shared = shared_keys(self.config, self.folder, self.share)
        return run_bytes(self.config_of(shared), self._shapes)

    def check_room(self) -> None:
        """Refuses, before anything is computed or written, trials that there is no room for.

        Raises:
            PartnerError: There is no room for a single one, or the cluster cannot be reached.
        """
        require_environment(self.config)
        size = self.sized(1)
        if self.config.resources.address is not None:
            with ray_session(self.placed, size.session):
                pass


def new_sweep(name: str, overrides: tuple[str, ...], output: Path | None, num_samples: int | None) -> Sweep:
    """A sweep that has not begun, of a shipped spec or a YAML file; nothing is written.

    Raises:
        PartnerError: The spec or a configuration is wrong, or the folder holds a sweep.
    """
    spec, title = read_spec(name)
    folder = SweepFolder(output or Path("runs") / f"sweep-{title}")
    if folder.spec_file.exists():
        raise PartnerError(
            f"{folder.path} holds a sweep: go on with `{folder.resume_command}`, or name another folder with --output"
        )
    sweep = checked_sweep(folder, _with_samples(spec, num_samples), overrides)
    check_outputs([GrowingFolder(folder.path, folder.kind)], input_paths(sweep.config))
    return sweep


def open_sweep(path: Path, num_samples: int | None, overrides: tuple[str, ...] = ()) -> Sweep:
    """A sweep that was begun, with the `KEY=VALUE` overrides that hold from now on; nothing is written.

    Raises:
        PartnerError: The folder holds no sweep, or one that is damaged; a key has changed that may not, or an input is
            gone.
    """
    folder = SweepFolder(path)
    if not folder.spec_file.is_file() or not folder.base_file.is_file():
        start = typed_command("sweep", "SPEC", "--output", path)
        raise PartnerError(f"{path} holds no sweep: start one with `{start}`")
    spec, _ = read_spec(str(folder.spec_file))
    sweep = checked_sweep(folder, _with_samples(spec, num_samples), overrides)
    _check_spec(spec, folder)
    check_unchanged(sweep)
    return sweep


def check_unchanged(sweep: Sweep) -> None:
    """Refuses to go on with other settings than those that a sweep began with, or without an input.

    Raises:
        PartnerError: A key has changed that may not, or an input is gone.
    """
    folder, began = sweep.folder, read_fingerprints(sweep.folder.path)
    if began is not None:
        # Trials that were trained for longer do not compare with the others.
        keeps = ("algorithm.iterations",) if sweep.evaluates else ()
        allowed_changes(began, sweep.config, str(folder.path), keeps=keeps)
    check_present(_inputs(sweep, began), folder.resume_command)


def _fingerprints_of_spec(spec: SweepSpec) -> dict[str, str]:
    """`sweep.KEY` → fingerprint, of the keys that decide which trials there are and how they compare."""
    values = spec.model_dump(mode="json")
    return {f"sweep.{key}": fingerprint_of([values[key]]) for key in _COMPARED}


def _check_spec(spec: SweepSpec, folder: SweepFolder) -> None:
    """Refuses a spec whose trials would be others than those that there are.

    Raises:
        PartnerError: A key has been changed.
    """
    began = read_fingerprints(folder.path)
    for key, found in _fingerprints_of_spec(spec).items():
        if began is not None and began.inputs.get(key, found) != found:
            name = key.removeprefix("sweep.")
            raise PartnerError(
                f"{folder.spec_file}: {name} was changed since the sweep began: put it back, or start another one"
            )


def _inputs(sweep: Sweep, began: Fingerprints | None) -> list[NamedInput]:
    """What all trials read; of an input that is swept, each trial has its own."""
    changes = () if began is None else began.changes(sweep.config)
    swept = sweep.spec.space
    sweeps_corpus = any(key.startswith("data.") for key in swept)
    return [
        one
        for one in inputs_of(sweep.config, run_request(sweep.config).keys, changes)
        if one.key not in swept and not (one.kind is Kind.CORPUS and sweeps_corpus)
    ]


def record_inputs(sweep: Sweep) -> None:
    """Compares what the trials depend on with what the sweep began with, and notes it.

    Raises:
        InputError: An input holds something else than at the beginning.
    """
    folder = sweep.folder
    began = read_fingerprints(folder.path)
    if began is None and folder.records():
        logger.warning("%s does not say what it began with: its data and models are taken as they are now", folder.path)
    inputs = _inputs(sweep, began)
    splits = load_splits(sweep.config) if any(one.kind is Kind.CORPUS for one in inputs) else None
    noted = (began or Fingerprints(settings_of(sweep.config), {})).followed_by(sweep.config, inputs, splits)
    save_config(sweep.config, folder.base_file)
    if sweep.evaluates:
        # From here on the folder's own file is what trials change.
        kept = sweep.spec.model_copy(update={"base": folder.base_file.name, "overrides": {}})
        write_text(folder.spec_file, spec_yaml(kept))
    Fingerprints(noted.settings, {**noted.inputs, **_fingerprints_of_spec(sweep.spec)}).save(folder.path)


def _with_samples(spec: SweepSpec, num_samples: int | None) -> SweepSpec:
    return spec if num_samples is None else spec.model_copy(update={"num_samples": num_samples})


def checked_sweep(folder: SweepFolder, spec: SweepSpec, overrides: tuple[str, ...] = ()) -> Sweep:
    """Checks every trial that is known before it starts.

    Raises:
        PartnerError: A configuration is wrong, or asks for what its sweep does not reserve or share.
    """
    config_of, points = config_maker(spec, overrides), planned_points(spec)
    # The base may be a run's; trials and the chosen configuration have names of their own.
    config = config_of({}).model_copy(update={"name": None})
    trials = list(checked_configs(spec, config_of, points))
    check_reservations(trials, config)
    share = shares(spec)
    if spec.share_rewards:
        check_scorers(spec, config_of)
    return Sweep(
        folder=folder,
        spec=spec,
        config_of=config_of,
        config=config,
        share=share,
        points=None if points is None else tuple(points),
        tried=tuple(config for _, config in trials),
        incomparable=incomparable_objectives(spec, config_of),
    )
