"""How good a judge is on held-out labelled pairs, beside the commonest level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from partner_rl.evaluation.judge.head import FloatArray, expected_levels, log_loss
from partner_rl.types import MECHANISMS, Example
from rewards.training.calibration import expected_calibration_error
from rewards.training.empathy_baselines import majority_levels
from rewards.training.empathy_scores import LevelScores, score_levels
from rewards.training.empathy_targets import level_matrix


@dataclass(frozen=True, slots=True)
class JudgeScores:
    """How well one mechanism is judged.

    Attributes:
        levels: Accuracy and macro-F1 of the likeliest level, with intervals.
        majority: The same of the level that is commonest in the training pairs.
        spearman: Rank correlation of the expected level with the label; 0 where either is constant.
        log_loss: Mean negative log-probability of the label, nats.
        mean_label: Mean label, which a calibrated judge's expected level has too.
    """

    levels: LevelScores
    majority: LevelScores
    spearman: float
    ece: float
    log_loss: float
    mean_expected: float
    mean_label: float


def score_judge(
    probabilities_NML: FloatArray, examples: Sequence[Example], examples_train: Sequence[Example], seed: int
) -> dict[str, JudgeScores]:
    """Scores by mechanism.

    All pairs are labelled; the baseline is that of the training pairs.
    """
    labels_NM = level_matrix(examples)
    expected_NM = expected_levels(probabilities_NML)
    levels = score_levels(probabilities_NML.argmax(axis=-1), examples, seed)
    majority = score_levels(majority_levels(examples_train, examples), examples, seed)
    losses_M = log_loss(probabilities_NML, labels_NM)
    return {
        name: JudgeScores(
            levels=levels[name],
            majority=majority[name],
            spearman=rank_correlation(expected_NM[:, m], labels_NM[:, m].astype(np.float64)),
            ece=expected_calibration_error(probabilities_NML[:, m], labels_NM[:, m]),
            log_loss=float(losses_M[m]),
            mean_expected=float(expected_NM[:, m].mean()),
            mean_label=float(labels_NM[:, m].mean()),
        )
        for m, name in enumerate(MECHANISMS)
    }


def rank_correlation(first_N: FloatArray, second_N: FloatArray) -> float:
    """Spearman's correlation; 0 where one of the two is constant and there is nothing to order."""
    if np.ptp(first_N) == 0 or np.ptp(second_N) == 0:
        return 0.0
    return float(spearmanr(first_N, second_N).statistic)
