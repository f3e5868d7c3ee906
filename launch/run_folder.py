"""The run folder: one place for everything that a run reads again or leaves behind."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from partner_rl.config.load import load_config, save_config
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError

_CHECKPOINT = re.compile(r"iteration-(\d+)")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run.

    Attributes:
        path: The folder, `runs/NAME`.
    """

    path: Path

    @classmethod
    def create(cls, config: RunConfig, default_name: str) -> RunFolder:
        """Makes a new run folder and writes the resolved configuration into it.

        Args:
            config: The configuration; `config.name` names the folder.
            default_name: Names the folder, with the time, when the configuration does not.

        Raises:
            PartnerError: A run of this name exists.
        """
        name = config.name or f"{default_name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if Path(name).name != name or name in {".", ".."}:
            raise PartnerError(f"name={name!r} is no folder name: leave out slashes")
        run = cls(Path(config.runs_dir) / name)
        try:
            run.path.mkdir(parents=True)
        except FileExistsError as error:
            raise PartnerError(
                f"{run.path} exists: resume it with `partner-rl train --resume {run.path}` or set another name=…"
            ) from error
        save_config(config.model_copy(update={"name": name}), run.config_file)
        return run

    @classmethod
    def open(cls, path: Path) -> tuple[RunFolder, RunConfig]:
        """An existing run and its configuration.

        Raises:
            PartnerError: The folder is no run folder.
        """
        run = cls(path)
        if not run.config_file.is_file():
            raise PartnerError(f"{path} is no run folder: it holds no config.yaml")
        return run, load_config(str(run.config_file), [])

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Tells, when Ctrl-C ends the block, how to go on."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(f"interrupted; go on with: partner-rl train --resume {self.path}") from interrupt

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def rewards(self) -> Path:
        """Reward classifiers that the run trained."""
        return self.path / "rewards"

    @property
    def warm_start(self) -> Path:
        """The warm-started policy."""
        return self.path / "warm_start"

    @property
    def checkpoints(self) -> Path:
        """Training states."""
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        """The trained policy in Hugging Face format."""
        return self.path / "export"

    @property
    def metrics(self) -> Path:
        """One line of figures an iteration."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """Plots of the metrics."""
        return self.path / "curves"

    @property
    def summary(self) -> Path:
        """Scores of each system, seconds, versions."""
        return self.path / "summary.json"

    @property
    def rewrites(self) -> Path:
        """Rewrites of the held-out pairs."""
        return self.path / "rewrites.jsonl"

    def checkpoint(self, iterations: int) -> Path:
        """Where the state after that many iterations is kept."""
        return self.checkpoints / f"iteration-{iterations:06d}"

    def saved_checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        found = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return sorted(path for path in found if _CHECKPOINT.fullmatch(path.name))

    def drop_old_checkpoints(self, keep: int) -> None:
        """Removes all but the newest checkpoints."""
        for path in self.saved_checkpoints()[:-keep]:
            shutil.rmtree(path)


def write_folder(target: Path, temporary: Path) -> None:
    """Gives a finished folder its final name, replacing an older one."""
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
