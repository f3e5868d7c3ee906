"""How good an empathy classifier is on labelled pairs, beside its baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from partner_rl.types import MECHANISMS, NUM_LEVELS, Example
from rewards.empathy_model import EmpathyClassifier
from rewards.encoder import EncodedText, tokenize
from rewards.training.calibration import expected_calibration_error
from rewards.training.empathy_targets import level_matrix, rationale_passages, rationale_tokens
from rewards.training.intervals import bootstrap_interval

IOU_MATCH = 0.5
"""A rationale is found when intersection over union with a true one, in tokens, is at least this (ERASER, ACL 2020)."""

IntArray = npt.NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class LevelScores:
    """How well one mechanism's level is decided.

    Attributes:
        macro_f1: Mean F1 of the levels that occur as label or decision.
        accuracy_interval: 95 % bootstrap interval; seekers are resampled.
        support: Pairs of level 0, 1 and 2.
    """

    accuracy: float
    macro_f1: float
    accuracy_interval: Interval
    macro_f1_interval: Interval
    support: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class MechanismScores:
    """How well a classifier does on one mechanism.

    Attributes:
        token_f1: F1 of the tokens inside rationales, over all pairs.
        iou_f1: F1 of whole rationales, over all pairs.
        ece: Expected calibration error of the calibrated probabilities.
        raw_ece: The same of the logits' own softmax.
    """

    levels: LevelScores
    token_f1: float
    iou_f1: float
    ece: float
    raw_ece: float


def score_levels(found_NM: IntArray, examples: Sequence[Example], seed: int) -> dict[str, LevelScores]:
    """Scores of decided levels `[N, M]`, by mechanism."""
    expected_NM = level_matrix(examples)
    _, seekers_N = np.unique([example.seeker_id for example in examples], return_inverse=True)
    scores = {}
    for m, name in enumerate(MECHANISMS):
        expected_N, found_N = expected_NM[:, m], found_NM[:, m]
        none, weak, strong = np.bincount(expected_N, minlength=NUM_LEVELS).tolist()
        scores[name] = LevelScores(
            accuracy=_accuracy(expected_N, found_N),
            macro_f1=_macro_f1(expected_N, found_N),
            accuracy_interval=_interval(_accuracy, expected_N, found_N, seekers_N, seed),
            macro_f1_interval=_interval(_macro_f1, expected_N, found_N, seekers_N, seed),
            support=(none, weak, strong),
        )
    return scores


def score_classifier(
    classifier: EmpathyClassifier, examples: Sequence[Example], seed: int
) -> dict[str, MechanismScores]:
    """Scores of a classifier on labelled pairs, by mechanism."""
    pairs = [(example.seeker_post, example.response_post) for example in examples]
    logits_NML = classifier.level_logits(pairs)
    calibrated_NML = classifier.model.calibrated(logits_NML.to(classifier.device)).cpu().double().numpy()
    raw_NML = softmax(logits_NML.double().numpy(), axis=-1)
    levels = score_levels(logits_NML.argmax(-1).numpy(), examples, seed)
    rationales = _score_rationales(classifier, examples)
    expected_NM = level_matrix(examples)
    return {
        name: MechanismScores(
            levels=levels[name],
            token_f1=rationales[name][0],
            iou_f1=rationales[name][1],
            ece=expected_calibration_error(calibrated_NML[:, m], expected_NM[:, m]),
            raw_ece=expected_calibration_error(raw_NML[:, m], expected_NM[:, m]),
        )
        for m, name in enumerate(MECHANISMS)
    }


def _score_rationales(classifier: EmpathyClassifier, examples: Sequence[Example]) -> Mapping[str, tuple[float, float]]:
    """Token-F1 and IOU-F1 of each mechanism."""
    predictions = classifier.predict([(example.seeker_post, example.response_post) for example in examples])
    responses = tokenize(classifier.tokenizer, [example.response_post for example in examples], classifier.max_tokens)
    tokens = np.zeros((len(MECHANISMS), 3), dtype=np.int64)
    spans = np.zeros((len(MECHANISMS), 4), dtype=np.int64)
    for example, prediction, response in zip(examples, predictions, responses, strict=True):
        for m, label in enumerate(example.labels or ()):
            inside, _ = rationale_tokens(label, example.response_post, response)
            expected = {t for t, value in enumerate(inside) if value == 1}
            found = _covered(prediction[m].rationales, response)
            tokens[m] += (len(expected & found), len(expected), len(found))
            passages, _ = rationale_passages(label, example.response_post)
            spans[m] += _matches(passages, prediction[m].rationales, response)
    return {
        name: (
            _f1(int(hits), int(expected), int(hits), int(found)),
            _f1(*(int(x) for x in spans[m])),
        )
        for m, (name, (hits, expected, found)) in enumerate(zip(MECHANISMS, tokens, strict=True))
    }


def _covered(spans: Sequence[tuple[int, int]], response: EncodedText) -> set[int]:
    """Tokens that some passage overlaps, special ones left out."""
    return {
        token
        for token, (start, end) in enumerate(response.offsets)
        if not response.special[token] and any(start < finish and end > begin for begin, finish in spans)
    }


def _matches(
    expected: Sequence[tuple[int, int]], found: Sequence[tuple[int, int]], response: EncodedText
) -> tuple[int, int, int, int]:
    """True passages that were found, all true ones, passages found that are true ones, all passages found."""
    # A passage behind the token limit covers nothing and cannot be found.
    true = [tokens for span in expected if (tokens := _covered([span], response))]
    guesses = [tokens for span in found if (tokens := _covered([span], response))]
    recalled = sum(any(_iou(t, g) >= IOU_MATCH for g in guesses) for t in true)
    precise = sum(any(_iou(t, g) >= IOU_MATCH for t in true) for g in guesses)
    return recalled, len(true), precise, len(guesses)


def _iou(first: set[int], second: set[int]) -> float:
    return len(first & second) / len(first | second)


def _f1(recalled: int, expected: int, precise: int, found: int) -> float:
    recall = recalled / expected if expected else 0.0
    precision = precise / found if found else 0.0
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def _interval(
    statistic: Callable[[IntArray, IntArray], float],
    expected_N: IntArray,
    found_N: IntArray,
    seekers_N: IntArray,
    seed: int,
) -> Interval:
    return bootstrap_interval(lambda rows: statistic(expected_N[rows], found_N[rows]), seekers_N, seed)


def _accuracy(expected_N: IntArray, found_N: IntArray) -> float:
    return float((expected_N == found_N).mean())


def _macro_f1(expected_N: IntArray, found_N: IntArray) -> float:
    # scikit-learn's own takes milliseconds, and the intervals need thousands.
    confusion_LL = np.bincount(expected_N * NUM_LEVELS + found_N, minlength=NUM_LEVELS**2).reshape(NUM_LEVELS, -1)
    either_L = confusion_LL.sum(axis=0) + confusion_LL.sum(axis=1)
    occurs_L = either_L > 0
    return float((2 * confusion_LL.diagonal()[occurs_L] / either_L[occurs_L]).mean())
