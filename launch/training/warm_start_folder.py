"""The folders of a warm start of its own: its output, and the state of its training until the output is whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from launch.console import typed_command
from launch.preflight.check_request import warm_start_request
from launch.run_folder.fingerprints import check_present, fingerprints_at_start, inputs_of
from launch.run_folder.record import CONFIG_FILE, has_begun
from launch.training.resuming import configuration_to_resume
from partner_rl.config.inputs import NamedInput
from partner_rl.config.load import save_config
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from partner_rl.data.splits import Splits

KIND: Final = "policy"
"""What the output says that it is."""


@dataclass(frozen=True, slots=True)
class WarmStartFolder:
    """The folder that receives the policy."""

    output: Path

    @property
    def work(self) -> Path:
        """Where the training's state lies until the output is whole."""
        return self.output.parent / f"{self.output.name}.training"

    @property
    def resume_command(self) -> str:
        """How to go on with the training."""
        return typed_command("warmstart", "--output", self.output, "--resume")

    def check_new(self) -> None:
        """Refuses an unfinished training.

        Raises:
            PartnerError: There is one.
        """
        if has_begun(self.work):
            raise PartnerError(
                f"{self.work} is an unfinished training: go on with `{self.resume_command}`, or remove it"
            )

    def to_resume(self, overrides: Sequence[str]) -> RunConfig:
        """The configuration that an unfinished training goes on with.

        Raises:
            PartnerError: There is none, a key has changed that may not, or an input is gone.
        """
        if not (self.work / CONFIG_FILE).is_file():
            raise PartnerError(f"there is no unfinished training at {self.work}: start one without --resume")
        config, _ = configuration_to_resume(self.work / CONFIG_FILE, overrides)
        check_present(_inputs(config), self.resume_command)
        return config

    def record_inputs(self, config: RunConfig, splits: Splits | None) -> None:
        """Compares the inputs with those that the training began with, and notes what it goes on with.

        Raises:
            InputError: An input holds something else than at the beginning.
        """
        noted = fingerprints_at_start(self.work, config).followed_by(config, _inputs(config), splits)
        save_config(config, self.work / CONFIG_FILE)
        noted.save(self.work)


def _inputs(config: RunConfig) -> tuple[NamedInput, ...]:
    """What a warm start reads."""
    return inputs_of(config, warm_start_request(config).keys)
