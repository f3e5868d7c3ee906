"""Space for checkpoints and models where the results go."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch.preflight.check_result import CheckResult, compared
from launch.preflight.facts import Facts
from launch.resources.memory import ENCODER, GIB, POLICY, Shapes, checkpoint_bytes, export_bytes
from launch.resources.model_shape import ModelShape
from partner_rl.config.schema import RunConfig
from partner_rl.storage.full_disk import existing_folder


@dataclass(frozen=True, slots=True)
class Disk:
    """The folder of the results: bytes that are free there, and whether this process may write."""

    path: str
    free: int
    is_writable: bool


def check_disk(facts: Facts) -> Iterator[CheckResult]:
    """The disk of the results, and what a run writes there."""
    needed = run_bytes(facts.config, facts.shapes) if facts.request.is_run else None
    yield disk_result(disk_of(facts.request.output or Path(facts.config.runs_dir)), needed)


def disk_of(folder: Path) -> Disk:
    """The disk on which a folder is or would be made."""
    there = existing_folder(folder.expanduser().absolute())
    writable = os.access(there, os.W_OK | os.X_OK) and there.is_dir()
    return Disk(str(folder), shutil.disk_usage(there).free, writable)


def run_bytes(config: RunConfig, shapes: Shapes) -> int | None:
    """What a training run leaves in its folder, in bytes; None where the policy's sizes are not known."""
    policy, encoder = shapes.get(POLICY), shapes.get(ENCODER)
    if policy is None:
        return None
    every = config.checkpoint.keep_every
    # One more is being written before an old one goes.
    kept = config.checkpoint.keep + 1 + (0 if every is None else config.algorithm.iterations // every)
    exports = 1 if config.warmstart.checkpoint is not None else 2
    total = kept * checkpoint_bytes(policy, config.policy, config.env.window)
    total += exports * export_bytes(policy, config.env.window)
    return total + (0 if encoder is None else _classifier_bytes(config, encoder))


def _classifier_bytes(config: RunConfig, encoder: ModelShape) -> int:
    """The classifiers that the run trains: each member of the empathy ensemble has two encoders."""
    members = config.reward_training.empathy_members if config.rewards.empathy.checkpoint is None else 0
    encoders = 2 * members + (config.rewards.coherence.checkpoint is None)
    return 4 * encoders * encoder.parameters


def disk_result(disk: Disk, needed: int | None) -> CheckResult:
    """Bytes that are needed, where that is known, beside those that are free."""
    if not disk.is_writable:
        return CheckResult("disk", "problem", f"{disk.path} cannot be written to", "set runs_dir to a folder of yours")
    free = f"{disk.free / GIB:.1f} GiB free in {disk.path}"
    if needed is None:
        return CheckResult("disk", "ok", f"{free}; what the run writes is not known before its models are there")
    hint = "make room, lower checkpoint.keep, set checkpoint.keep_every=null, or move runs_dir"
    return compared("disk", f"about {needed / GIB:.1f} GiB needed, {free}", hint, needed, disk.free)
