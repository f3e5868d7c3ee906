"""How well the topic classifier tells posts about mental health from everyday ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Probabilities = npt.NDArray[np.float64]
"""One probability a post, shape `[n]`."""

_RESAMPLES: Final = 1000
_CALIBRATION_BINS: Final = 10
_INTERVAL: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class TopicEstimate:
    """A metric and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts at the threshold; positive means about mental health."""

    true_positives: int
    false_negatives: int
    false_positives: int
    true_negatives: int


@dataclass(frozen=True, slots=True)
class TopicScores:
    """What the classifier does on one set of posts.

    Precision and F1 depend on how many positives there are among the posts; recall, the share of negatives that are
    dropped, and the area under the ROC curve do not.

    Attributes:
        precision: Positives among the posts that are kept; 0 when none is kept.
        calibration_error: Expected calibration error over ten equal bins, both classes weighing the same.
    """

    positives: int
    negatives: int
    precision: TopicEstimate
    recall: TopicEstimate
    f1: TopicEstimate
    specificity: TopicEstimate
    auc: TopicEstimate
    confusion: Confusion
    calibration_error: float


@dataclass(frozen=True, slots=True)
class TopicReport:
    """A trained topic classifier's metrics, all on posts that it was not trained on.

    Attributes:
        inverse_penalty: The logistic regression's `C`, chosen by cross-validation on the training posts.
        held_out: On every held-out post.
        hard: On held-out positives and hard negatives; None where no hard negative is held out.
        other: On the positives that were to be judged apart and all held-out negatives; None where there are none.
    """

    encoder: str
    seed: int
    threshold: float
    inverse_penalty: float
    train_positives: int
    train_negatives: int
    held_out: TopicScores
    hard: TopicScores | None = None
    other: TopicScores | None = None


def topic_scores(positives: Probabilities, negatives: Probabilities, threshold: float, seed: int) -> TopicScores:
    """Metrics of one set of posts.

    Args:
        positives: Probabilities of the posts about mental health, `[p]`, at least one.
        negatives: Probabilities of the everyday posts, `[n]`, at least one.
        threshold: A post with at least this probability is kept.
        seed: Seed of the bootstrap, which draws from each class apart.
    """
    metrics = _with_intervals(lambda p, n: _metrics(p, n, threshold), positives, negatives, seed)
    precision, recall, f1, specificity, auc = metrics
    kept, wrongly_kept = int((positives >= threshold).sum()), int((negatives >= threshold).sum())
    confusion = Confusion(kept, len(positives) - kept, wrongly_kept, len(negatives) - wrongly_kept)
    error = calibration_error(positives, negatives)
    return TopicScores(
        len(positives), len(negatives), precision, recall, f1, specificity, auc, confusion, calibration_error=error
    )


def calibration_error(positives: Probabilities, negatives: Probabilities) -> float:
    """Mean distance of a bin's mean probability from its share of positives, both classes weighing the same."""
    probabilities = np.concatenate([positives, negatives])
    labels = np.repeat([1.0, 0.0], [len(positives), len(negatives)])
    weights = np.repeat([0.5 / len(positives), 0.5 / len(negatives)], [len(positives), len(negatives)])
    bins = np.minimum((probabilities * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights * (probabilities - labels), minlength=_CALIBRATION_BINS)
    return float(np.abs(gaps).sum())


def _metrics(positives: Probabilities, negatives: Probabilities, threshold: float) -> npt.NDArray[np.float64]:
    kept, wrongly_kept = float((positives >= threshold).sum()), float((negatives >= threshold).sum())
    precision = kept / (kept + wrongly_kept) if kept + wrongly_kept else 0.0
    recall = kept / len(positives)
    f1 = 2 * kept / (kept + wrongly_kept + len(positives))
    return np.array([precision, recall, f1, 1 - wrongly_kept / len(negatives), _area(positives, negatives)])


def _area(positives: Probabilities, negatives: Probabilities) -> float:
    """Area under the ROC curve by ranks; a tie counts half."""
    ranks = rankdata(np.concatenate([positives, negatives]))[: len(positives)]
    wins = ranks.sum() - len(positives) * (len(positives) + 1) / 2
    return float(wins / (len(positives) * len(negatives)))


def _with_intervals(
    metrics: Callable[[Probabilities, Probabilities], npt.NDArray[np.float64]],
    positives: Probabilities,
    negatives: Probabilities,
    seed: int,
) -> list[TopicEstimate]:
    random = np.random.default_rng(seed)
    drawn: list[npt.NDArray[Any]] = [
        metrics(random.choice(positives, len(positives)), random.choice(negatives, len(negatives)))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(np.stack(drawn), _INTERVAL, axis=0)
    values = metrics(positives, negatives)
    return [TopicEstimate(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)]
