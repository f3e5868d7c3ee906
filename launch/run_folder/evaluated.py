"""Runs that are evaluated together, and what their policies are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.run_folder.folder import RunFolder
from partner_rl.config.schema import RunConfig
from partner_rl.evaluation.system import TRAINED, WARM_START
from partner_rl.types import PartnerError


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """A run, and the name of its policy in the report."""

    name: str
    folder: RunFolder
    config: RunConfig


def named_runs(opened: Sequence[tuple[RunFolder, RunConfig]]) -> list[EvaluatedRun]:
    """Names the policies of some runs: `rl` for the only one, else each by its folder, numbered where two are alike.

    Raises:
        PartnerError: A run has no trained policy.
    """
    for folder, _ in opened:
        if not folder.export.is_dir():
            raise PartnerError(f"{folder.path} has no export/: finish its training with `{folder.resume_command}`")
    if len(opened) == 1:
        return [EvaluatedRun(TRAINED, *opened[0])]
    seen: Counter[str] = Counter()
    runs = []
    for folder, config in opened:
        name = folder.path.resolve().name
        seen[name] += 1
        runs.append(EvaluatedRun(name if seen[name] == 1 else f"{name}#{seen[name]}", folder, config))
    return runs


def warm_starts(runs: Sequence[EvaluatedRun]) -> dict[str, tuple[Path, EvaluatedRun]]:
    """The policies that the runs started from, each once: `warm_start` for the only one, else `RUN/warm_start`."""
    folders: dict[Path, EvaluatedRun] = {}
    for run in runs:
        checkpoint = run.config.warmstart.checkpoint
        folder = run.folder.warm_start if checkpoint is None else Path(checkpoint)
        if folder.is_dir():
            folders.setdefault(folder.resolve(), run)
    if len(folders) == 1:
        return {WARM_START: next(iter(folders.items()))}
    return {f"{run.name}/{WARM_START}": (folder, run) for folder, run in folders.items()}
