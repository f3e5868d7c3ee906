"""Training of an empathy ensemble: the same training again, each time from another seed.

The first member is what `train_empathy` makes of the seed, whatever follows it. See `rewards.empathy_ensemble` for what
members differ in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.progress import Progress, no_progress, part_of
from partner_rl.seeds import generator_of, seed_of
from partner_rl.types import Example
from rewards.empathy_ensemble import EmpathyEnsemble
from rewards.training.empathy import EmpathyReport, train_empathy


def train_members(
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    seed: int,
    device: str = "cpu",
    progress: Progress = no_progress,
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
            seed if number == 0 else seed_of("empathy member", seed, number),
            device,
            part_of(progress, number, count),
            resampling=None if number == 0 else generator_of("empathy resample", seed, number),
        )
        classifiers.append(classifier)
        reports.append(report)
    return EmpathyEnsemble(tuple(classifiers)), tuple(reports)
