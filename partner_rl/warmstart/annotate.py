"""Which sentences of a response carry empathy: by rationales, or by a classifier with rationales as a check."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from envs import text
from partner_rl.text.self_disclosure import speaks_of_itself
from partner_rl.types import MECHANISMS, Example, MechanismLabel, PartnerError

SentenceScorer = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.floating]]
"""(Seeker post, text) pairs → the level, 0…2, of each mechanism; shape `[n, 3]`."""

Levels = tuple[float, float, float]
"""Level of each mechanism, 0…2, in the order of `MECHANISMS`."""

MIN_OVERLAP: Final = 0.5
"""A rationale and a sentence belong together when they share this part of the shorter of the two."""

STRONG_LEVEL: Final = 1.5
"""A sentence that is scored at least this high carries empathy even where no rationale lies in it."""

AGREE: Final = "scored, inside a rationale"
"""Count of sentences that score and rationales agree on; kept."""

STRONG_ALONE: Final = "scored strong, outside the rationales"
"""Count of sentences kept for their score alone."""

WEAK_ALONE: Final = "scored weak, outside the rationales"
"""Count of sentences dropped because no rationale lies in them."""

RATIONALE_ALONE: Final = "inside a rationale, scored too low"
"""Count of sentences that hold a rationale and are dropped for their score."""

_REFERENCE = re.compile(r"https?://|www\.|\b[\w-]+\.(?:com|org|net|gov|edu)\b|(?<!\w)/?[ru]/\w", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AnnotatedResponse:
    """A response with the empathy of each of its `S` sentences.

    Attributes:
        levels: One entry a sentence: what it contributes to each mechanism.
        empathy: Empathy of the whole response, 0…6.
    """

    example: Example
    split: text.SplitText
    levels: tuple[Levels, ...]
    empathy: float


def annotate(examples: Sequence[Example]) -> list[AnnotatedResponse]:
    """Finds the empathic sentences of every labelled response that has a sentence, by its rationales."""
    return [
        _by_rationales(example, split, example.labels)
        for example in examples
        if example.labels is not None and (split := text.split(example.response_post)).sentences
    ]


def annotate_checked(
    examples: Sequence[Example], scorer: SentenceScorer, min_level: float
) -> tuple[list[AnnotatedResponse], dict[str, Counter[str]]]:
    """Finds the empathic sentences by their scores, with the response's rationales as a check.

    A sentence carries a mechanism when it is scored at least `min_level` in it and a rationale of that mechanism lies
    in it, or it is scored at least `STRONG_LEVEL` too. What fails has level 0.

    Returns:
        The responses that have a sentence, and per mechanism how often score and rationale agreed (`AGREE` etc.).

    Raises:
        PartnerError: The scorer's answer has the wrong shape or is not finite.
        ValueError: An example is not labelled.
    """
    if any(example.labels is None for example in examples):
        raise ValueError("sentences are checked against rationales: every pair must be labelled")
    marked = annotate(examples)
    requests = [(one.example.seeker_post, sentence) for one in marked for sentence in one.split.sentences]
    scores_NM = _scores(requests, scorer)
    marked_NM = np.array([levels for one in marked for levels in one.levels]).reshape(scores_NM.shape) > 0.0
    kept_NM, counts = check_scores(scores_NM, marked_NM, min_level)
    rows = iter(kept_NM)
    checked = [replace(one, levels=tuple(_levels(next(rows)) for _ in one.levels)) for one in marked]
    return checked, counts


def check_scores(
    scores_NM: npt.NDArray[np.float64], marked_NM: npt.NDArray[np.bool_], min_level: float
) -> tuple[npt.NDArray[np.float64], dict[str, Counter[str]]]:
    """The scores that stand, others 0, and per mechanism how often score and rationale agreed.

    Args:
        scores_NM: Level of each sentence in each mechanism.
        marked_NM: Whether a rationale of the mechanism lies in the sentence.
        min_level: Lower scores never stand.
    """
    scored_NM, strong_NM = scores_NM >= min_level, scores_NM >= STRONG_LEVEL
    cases = {
        AGREE: scored_NM & marked_NM,
        STRONG_ALONE: scored_NM & strong_NM & ~marked_NM,
        WEAK_ALONE: scored_NM & ~strong_NM & ~marked_NM,
        RATIONALE_ALONE: ~scored_NM & marked_NM,
    }
    counts = {
        mechanism: Counter({name: int(case_NM[:, m].sum()) for name, case_NM in cases.items()})
        for m, mechanism in enumerate(MECHANISMS)
    }
    return np.where(cases[AGREE] | cases[STRONG_ALONE], scores_NM, 0.0), counts


def why_unusable(sentence: str, min_words: int, max_words: int, own_experience: bool = True) -> str | None:
    """Why a sentence may not be written by the policy, in a few words; None if it may.

    It may if it is of ordinary length and without web addresses and forum names; without `own_experience` it must not
    speak of its writer's life (`partner_rl.text.self_disclosure`).
    """
    words = len(sentence.split())
    if words < min_words:
        return "too short"
    if words > max_words:
        return "too long"
    if _REFERENCE.search(sentence):
        return "web address or forum name"
    return None if own_experience or not speaks_of_itself(sentence) else "experience of its writer"


def _by_rationales(example: Example, split: text.SplitText, labels: Sequence[MechanismLabel]) -> AnnotatedResponse:
    spans = _sentence_spans(split)
    carried = [_carried(example.response_post, spans, label) for label in labels]
    levels = tuple(_levels([column[row] for column in carried]) for row in range(len(spans)))
    return AnnotatedResponse(example, split, levels, float(sum(label.level for label in labels)))


def _carried(response: str, spans: Sequence[tuple[int, int]], label: MechanismLabel) -> list[float]:
    """The label's level at each sentence that one of its rationales lies in, else 0."""
    found = []
    for rationale in map(str.strip, label.rationales):
        start = response.find(rationale) if rationale and label.level > 0 else -1
        if start >= 0:
            found.append((start, start + len(rationale)))
    return [float(label.level) if any(_belong(span, other) for other in found) else 0.0 for span in spans]


def _belong(first: tuple[int, int], second: tuple[int, int]) -> bool:
    shared = min(first[1], second[1]) - max(first[0], second[0])
    shorter = min(first[1] - first[0], second[1] - second[0])
    return shared > 0 and shared >= MIN_OVERLAP * shorter


def _sentence_spans(split: text.SplitText) -> list[tuple[int, int]]:
    """Start and end of each sentence in the text, in characters."""
    spans, start = [], len(split.prefix)
    for sentence, gap in zip(split.sentences, split.gaps, strict=True):
        spans.append((start, start + len(sentence)))
        start += len(sentence) + len(gap)
    return spans


def _scores(requests: Sequence[tuple[str, str]], scorer: SentenceScorer) -> npt.NDArray[np.float64]:
    if not requests:
        return np.zeros((0, len(MECHANISMS)))
    levels_NM = np.asarray(scorer(requests), dtype=np.float64)
    if levels_NM.shape != (len(requests), len(MECHANISMS)) or not np.isfinite(levels_NM).all():
        raise PartnerError(
            f"the sentence scorer answered {len(requests)} texts with an array of shape {levels_NM.shape}: "
            f"it must return finite levels of shape ({len(requests)}, {len(MECHANISMS)})"
        )
    return levels_NM


def _levels(values: Sequence[float] | npt.NDArray[np.float64]) -> Levels:
    first, second, third = (float(value) for value in values)
    return first, second, third
