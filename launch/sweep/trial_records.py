"""The sweep's folder, and what is known of each trial: all that a resumed sweep needs.

Tune keeps its own state as pickles, and saves it now and then. Here a trial writes down what it has reached as plain
JSON before it says so to Tune; a resumed sweep starts Tune anew with what is left to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from launch.console import typed_command
from launch.run_folder.folder import RunFolder
from launch.sweep.space import Point
from partner_rl.storage.atomic import write_text
from partner_rl.storage.file_names import is_plain_name
from partner_rl.types import PartnerError

Status = Literal["running", "finished", "stopped", "failed"]
"""`running` also of a trial that was interrupted; `stopped` by the scheduler, before its last iteration."""


class TrialEvaluation(BaseModel):
    """A trial's metrics on the held-out pairs after some iterations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    iterations: int
    metrics: dict[str, float]


class WeightsFrom(BaseModel):
    """Reward weights, by configuration key, that hold from an iteration on, counted from 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    iteration: int
    weights: dict[str, float]


class TrialRecord(BaseModel):
    """What is known of a trial.

    Attributes:
        values: Configuration key → value; with PBT the present ones.
        history: Evaluations, oldest first.
        weights: With PBT the weights that the policy was trained with, over all trials that it came from.
        reason: Why it failed, in one line.
        transient: Whether it failed through what lies outside of it: a full disk, an input that is gone, a process that
            was lost.
        seconds: Phase → seconds, over all starts.
        reward_actors: Reward actors of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    number: int
    values: dict[str, JsonValue]
    status: Status = "running"
    starts: int = 0
    history: tuple[TrialEvaluation, ...] = ()
    weights: tuple[WeightsFrom, ...] = ()
    reason: str | None = None
    transient: bool = False
    seconds: dict[str, float] = {}
    reward_actors: int = 0

    @property
    def point(self) -> Point:
        """The trial's point in the space."""
        return Point(self.number, self.values, self.name)

    @property
    def last(self) -> TrialEvaluation | None:
        """The newest evaluation."""
        return self.history[-1] if self.history else None

    def is_to_be_retried(self, *, all_failed: bool) -> bool:
        """Whether it failed and is tried again: what failed by itself would fail again, unless all are asked for."""
        return self.status == "failed" and (all_failed or self.transient)

    def evaluated(self, found: TrialEvaluation) -> TrialRecord:
        """The record with an evaluation; those of as many or more iterations are undone ones."""
        earlier = tuple(one for one in self.history if one.iterations < found.iterations)
        return self.model_copy(update={"history": (*earlier, found)})


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Paths of a sweep."""

    kind: ClassVar[str] = "sweep"
    """What the folder says that it is."""

    path: Path

    @property
    def spec_file(self) -> Path:
        """The spec as it was when the sweep began."""
        return self.path / "sweep.yaml"

    @property
    def resume_command(self) -> str:
        """How to go on with the sweep."""
        return typed_command("sweep", "--resume", self.path)

    @property
    def base_file(self) -> Path:
        """The configuration that trials change."""
        return self.path / "base.yaml"

    @property
    def shared(self) -> RunFolder:
        """Reward models and warm start that all trials use."""
        return RunFolder(self.path / "shared")

    @property
    def trials(self) -> Path:
        """The trials' run folders."""
        return self.path / "trials"

    @property
    def scratch(self) -> Path:
        """What Tune writes; nothing of it is read again."""
        return self.path / ".tune"

    @property
    def chosen(self) -> Path:
        """The chosen configuration."""
        return self.path / "chosen.yaml"

    def run(self, name: str) -> RunFolder:
        """A trial's run folder."""
        return RunFolder(self.trials / name)

    def records(self) -> list[TrialRecord]:
        """All trials that were ever started, by number."""
        found = [self.read(path.stem) for path in self._records.glob("*.json")]
        return sorted((record for record in found if record is not None), key=lambda record: record.number)

    def traceback(self, name: str) -> Path:
        """Where an unexpected error of a trial is written down."""
        return self._record(name).with_suffix(".error.txt")

    def read(self, name: str) -> TrialRecord | None:
        """What is known of a trial; None when it was never started.

        Raises:
            PartnerError: The record is damaged.
        """
        path = self._record(name)
        try:
            record = TrialRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise PartnerError(f"{path} is damaged: remove it to start the trial's record anew") from error
        # The name leads to the trial's run folder.
        if record.name != name:
            raise PartnerError(f"{path} is that of another trial ({record.name!r}): remove it")
        return record

    def write(self, record: TrialRecord) -> TrialRecord:
        """Writes a record down, whole or not at all, and returns it."""
        write_text(self._record(record.name), record.model_dump_json(indent=2) + "\n")
        return record

    def known_or_new(self, point: Point) -> TrialRecord:
        """What is known of a trial, or the record of one that was never started."""
        return self.read(point.name) or TrialRecord(name=point.name, number=point.number, values=dict(point.values))

    def update(self, point: Point, **changes: Any) -> TrialRecord:
        """Writes down what has changed of a trial, by the record's own names."""
        return self.write(self.known_or_new(point).model_copy(update=changes))

    def start(self, point: Point) -> TrialRecord:
        """Notes that a trial starts, for the first time or again."""
        starts = self.known_or_new(point).starts + 1
        return self.update(point, starts=starts, status="running", values=dict(point.values))

    def add_seconds(self, point: Point, seconds: Mapping[str, float]) -> TrialRecord:
        """Adds further seconds of each phase to a trial's."""
        known = self.known_or_new(point).seconds
        phases = sorted({*known, *seconds})
        return self.update(point, seconds={p: round(known.get(p, 0.0) + seconds.get(p, 0.0), 3) for p in phases})

    @property
    def _records(self) -> Path:
        return self.path / "records"

    def _record(self, name: str) -> Path:
        if not is_plain_name(name):
            raise PartnerError(f"{name!r} is no trial of {self.path}")
        return self._records / f"{name}.json"
