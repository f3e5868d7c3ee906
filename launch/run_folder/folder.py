"""The run folder: one place for everything that a run reads again or leaves behind."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launch.console import typed_command
from launch.interrupt import resumable_by
from launch.run_folder.lock import LOCK_FILE, alone
from launch.run_folder.record import CONFIG_FILE, LEFT_BY_A_START, has_begun, recorded
from partner_rl.config.load import load_config, save_config
from partner_rl.config.schema import RunConfig
from partner_rl.storage.atomic import growing_folder
from partner_rl.storage.file_names import is_plain_name
from partner_rl.storage.manifest import has_whole_size
from partner_rl.storage.temporary import remove_unfinished
from partner_rl.types import PartnerError

logger = logging.getLogger(__name__)

KIND = "run"
"""What a run folder says that it is."""

_CHECKPOINT = re.compile(r"iteration-(\d+)")
_DISCARDED = ".discarded"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run, in the folder `runs/NAME`."""

    path: Path

    @classmethod
    def create(cls, config: RunConfig, default_name: str) -> RunFolder:
        """Makes a new run folder and writes the resolved configuration into it.

        Without `config.name` the folder is called `default_name` and the time. A start that computed nothing does not
        take the name.

        Raises:
            PartnerError: A run of this name exists, or the folder cannot be made.
        """
        name = config.name or f"{default_name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if not is_plain_name(name):
            raise PartnerError(f"name={name!r} is no folder name: leave out slashes and control characters")
        run = cls(Path(config.runs_dir) / name)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PartnerError(
                f"{run.path} cannot be made ({error.strerror}): set another name=… or runs_dir=…"
            ) from error
        with alone(run.path, "training"):
            if run.has_begun:
                known = run.config_file.is_file()
                how = f"resume it with `{run.resume_command}`" if known else "it is none of our runs; move it away"
                raise PartnerError(f"{run.path} exists: {how}, or set another name=…")
            for left in LEFT_BY_A_START - {LOCK_FILE}:
                (run.path / left).unlink(missing_ok=True)
            growing_folder(run.path, KIND)
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
            raise PartnerError(f"{path} is no run folder: it holds no {CONFIG_FILE}")
        return run, load_config(str(run.config_file), [])

    @property
    def has_begun(self) -> bool:
        """Whether there is something to go on with."""
        return has_begun(self.path)

    @property
    def iterations(self) -> int:
        """Iterations of the newest checkpoint; 0 before the first one."""
        return max(map(iterations_of, self.saved_checkpoints()), default=0)

    @property
    def resume_command(self) -> str:
        """How to go on with the run."""
        return typed_command("train", "--resume", self.path)

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Keeps other processes out of the run, and tells, when Ctrl-C ends the block, how to go on.

        What a killed process left unfinished is removed first.

        Raises:
            PartnerError: Another process is at work in the folder.
        """
        with resumable_by(self.resume_command), alone(self.path, "training"):
            self._remove_unfinished()
            with recorded(self.path):
                yield

    def _remove_unfinished(self) -> None:
        for folder in (self.path, self.checkpoints, self.rewards):
            remove_unfinished(folder)
        if self.warm_start.exists():
            shutil.rmtree(self.warm_start_training, ignore_errors=True)

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG_FILE

    @property
    def rewards(self) -> Path:
        """Reward classifiers that the run trained."""
        return self.path / "rewards"

    @property
    def warm_start(self) -> Path:
        """The warm-started policy."""
        return self.path / "warm_start"

    @property
    def warm_start_training(self) -> Path:
        """State of a warm start that has not ended."""
        return self.path / ".warm_start.training"

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
        """One line of metrics an iteration."""
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
        """The checkpoints, oldest first; all were whole when they were written."""
        found = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return sorted((path for path in found if _CHECKPOINT.fullmatch(path.name)), key=iterations_of)

    def set_aside_checkpoints_after(self, iterations: int) -> None:
        """Renames the checkpoints of more iterations, so that no resume takes them: they are damaged or undone."""
        for path in self.saved_checkpoints():
            if iterations_of(path) > iterations:
                aside = path.with_name(path.name + _DISCARDED)
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)

    def set_aside_results(self, iterations: int) -> None:
        """Renames the metrics and rewrites of a policy of so many iterations that is about to be trained on."""
        for path in (self.summary, self.rewrites):
            if path.exists():
                aside = path.with_name(f"{path.stem}-iteration-{iterations:06d}{path.suffix}")
                path.rename(aside)
                logger.info("%s is about the policy so far: it is %s now", path.name, aside.name)

    def drop_old_checkpoints(self, keep: int, keep_every: int | None = None) -> None:
        """Removes all but the `keep` newest checkpoints and those after a multiple of `keep_every`.

        A checkpoint that has been cut off or lost a file since does not count as one of them; those set aside go.
        """
        saved = self.saved_checkpoints()
        kept = [path for path in saved if has_whole_size(path)][-keep:]
        if not kept:
            return
        for path in saved:
            if path not in kept and (keep_every is None or iterations_of(path) % keep_every):
                shutil.rmtree(path)
        for path in self.checkpoints.glob(f"*{_DISCARDED}"):
            shutil.rmtree(path)


def iterations_of(checkpoint: Path) -> int:
    """The iterations that a checkpoint has behind it, by its name."""
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])
