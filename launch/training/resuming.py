"""Going on with a run: what it depends on is compared with what it began with before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from launch.run_folder.fingerprints import (
    ChangedKey,
    Fingerprints,
    allowed_changes,
    check_present,
    fingerprints_at_start,
    inputs_of,
    read_fingerprints,
    settings_of,
)
from launch.run_folder.folder import RunFolder
from launch.run_folder.record import has_begun, now, read_record, update_record
from partner_rl.config.inputs import NamedInput
from partner_rl.config.load import load_config, save_config
from partner_rl.config.paths import Kind
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from partner_rl.data.splits import Splits

logger = logging.getLogger(__name__)


def refuse_preset(context: typer.Context) -> None:
    """Refuses a preset beside `--resume`, which would mean nothing.

    Raises:
        PartnerError: One was named on the command line.
    """
    source = context.get_parameter_source("preset")
    if source is not None and source.name == "COMMANDLINE":
        raise PartnerError("--resume goes on with the training's own configuration: leave --preset out")


def open_to_resume(path: Path, overrides: Sequence[str]) -> tuple[RunFolder, RunConfig]:
    """A run and the configuration that it goes on with, with the `KEY=VALUE` overrides; nothing is written.

    Raises:
        PartnerError: It is no run folder, a key has changed that may not, an input is gone, or the run has more
            iterations behind it than it is to have.
    """
    run, stored = RunFolder.open(path)
    config, changes = configuration_to_resume(run.config_file, overrides)
    if (config.name, config.runs_dir) != (stored.name, stored.runs_dir):
        raise PartnerError("name and runs_dir say where a new run lies: rename or move the folder instead")
    if config.algorithm.iterations < run.iterations:
        raise PartnerError(
            f"algorithm.iterations={config.algorithm.iterations}: {path} has done {run.iterations} already; set it to "
            "that or more"
        )
    check_present(_inputs(run, config, changes), run.resume_command)
    return run, config


def configuration_to_resume(file: Path, overrides: Sequence[str]) -> tuple[RunConfig, tuple[ChangedKey, ...]]:
    """The configuration that a training goes on with, and the keys in which it differs from that at its beginning.

    As long as nothing has been computed, any key may change.

    Raises:
        PartnerError: A key has changed that may not.
    """
    stored, config = load_config(str(file)), load_config(str(file), overrides)
    if not has_begun(file.parent):
        return config, ()
    began = read_fingerprints(file.parent) or Fingerprints(settings_of(stored), {})
    allowed_changes(began, stored, str(file))
    return config, allowed_changes(began, config, "--resume")


def _inputs(run: RunFolder, config: RunConfig, changes: Sequence[ChangedKey]) -> tuple[NamedInput, ...]:
    """What a run reads from here on."""
    # What loads models takes seconds to import.
    from launch.preflight.check_request import run_request

    return inputs_of(config, run_request(config, resumed=run).keys, changes)


def record_inputs(run: RunFolder, config: RunConfig, splits: Splits) -> None:
    """Compares the inputs of a run with those that it began with, and notes what it goes on with.

    To be called inside of the run's lock, before anything is computed.

    Raises:
        InputError: An input holds something else than at the beginning.
    """
    began = fingerprints_at_start(run.path, RunFolder.open(run.path)[1] if run.has_begun else config)
    changes = began.changes(config)
    noted = began.followed_by(config, _inputs(run, config, changes), splits)
    if changes or not run.has_begun:
        save_config(config.model_copy(update={"name": config.name or run.path.name}), run.config_file)
        _note(run, changes)
    noted.save(run.path)


def check_unfetched(run: RunFolder, config: RunConfig, splits: Splits) -> None:
    """What `record_inputs` would say of the corpus and of models in folders; fetches no model and writes nothing.

    Raises:
        InputError: An input holds something else than at the beginning.
    """
    if run.has_begun:
        began = fingerprints_at_start(run.path, RunFolder.open(run.path)[1])
        inputs = _inputs(run, config, began.changes(config))
        here = [one for one in inputs if one.kind is Kind.CORPUS or one.path is not None]
        began.followed_by(config, here, splits)


def _note(run: RunFolder, changes: Sequence[ChangedKey]) -> None:
    """Adds the keys that change to the history in `run.json`."""
    if changes:
        when, history = now(), read_record(run.path).get("changes", [])
        update_record(run.path, {"changes": [*history, *({"when": when, **asdict(change)} for change in changes)]})
        logger.info("from now on: %s", ", ".join(f"{change.key}={change.new}" for change in changes))
