"""Training of an empathy ensemble: the same training again, each time from another seed.

The first member is what `train_empathy` makes of the seed, whatever follows it. See `rewards.empathy_ensemble` for what
members differ in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.types import Example
from rewards.empathy_ensemble import EmpathyEnsemble
from rewards.training.empathy import EmpathyReport, train_empathy
from rewards.training.schedule import Progress

_PURPOSE: Final = int.from_bytes(b"empathy member")
"""First word of the members' seeds, so that nothing else draws their numbers."""


def train_members(
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[EmpathyEnsemble, tuple[EmpathyReport, ...]]:
    """Train `empathy_members` classifiers; the arguments, and what it raises, are those of `train_empathy`.

    Returns:
        The ensemble, and what each member's training did.
    """
    count = settings.empathy_members
    classifiers, reports = [], []
    for number in range(count):
        classifier, report = train_empathy(
            examples_train,
            examples_dev,
            encoder_path,
            settings,
            seed if number == 0 else member_seed(seed, number),
            device,
            None if progress is None else _shifted(progress, number, count),
            resampling=None if number == 0 else np.random.default_rng([_PURPOSE, seed, number]),
        )
        classifiers.append(classifier)
        reports.append(report)
    return EmpathyEnsemble(tuple(classifiers)), tuple(reports)


def member_seed(seed: int, number: int) -> int:
    """Seed of the training of a member after the first, which is number 0."""
    return int(np.random.SeedSequence([_PURPOSE, seed, number]).generate_state(1)[0])


def _shifted(progress: Progress, number: int, count: int) -> Progress:
    """Progress of one of `count` equal trainings as progress of them all."""
    return lambda done, total: progress(number * total + done, count * total)
