"""Which sentences of a response carry empathy: by human rationales, or by a classifier where there are no labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from envs import text
from partner_rl.types import MECHANISMS, Example, MechanismLabel, PartnerError

SentenceScorer = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.floating]]
"""(Seeker post, text) pairs → the level, 0…2, of each mechanism; shape `[n, 3]`."""

Levels = tuple[float, float, float]
"""Level of each mechanism, 0…2, in the order of `MECHANISMS`."""

MIN_OVERLAP: Final = 0.5
"""A rationale and a sentence belong together when they share this part of the shorter of the two."""

_REFERENCE = re.compile(r"https?://|www\.|\b[\w-]+\.(?:com|org|net|gov|edu)\b|(?<!\w)/?[ru]/\w", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AnnotatedResponse:
    """A response with the empathy of each of its `S` sentences.

    Attributes:
        example: The pair.
        split: Its response's sentences.
        levels: One entry a sentence: what it contributes to each mechanism.
        empathy: Empathy of the whole response, 0…6.
    """

    example: Example
    split: text.SplitText
    levels: tuple[Levels, ...]
    empathy: float


def annotate(examples: Sequence[Example], scorer: SentenceScorer | None) -> list[AnnotatedResponse]:
    """Finds the empathic sentences of every response that has a sentence and is labelled or can be scored.

    Args:
        examples: Labelled or unlabelled pairs.
        scorer: Scores the unlabelled ones, all in one call; None leaves them out.

    Raises:
        PartnerError: The scorer's answer has the wrong shape or is not finite.
    """
    splits = [text.split(example.response_post) for example in examples]
    rows = [row for row, split in enumerate(splits) if split.sentences]
    unlabelled = [row for row in rows if examples[row].labels is None]
    annotated = {
        row: _by_rationales(examples[row], splits[row], labels)
        for row in rows
        if (labels := examples[row].labels) is not None
    }
    if scorer is not None and unlabelled:
        scored = _by_scorer([(examples[row], splits[row]) for row in unlabelled], scorer)
        annotated.update(zip(unlabelled, scored, strict=True))
    return [annotated[row] for row in sorted(annotated)]


def is_usable(sentence: str, min_words: int, max_words: int) -> bool:
    """Whether a sentence may be written by the policy: of ordinary length, without web addresses and forum names."""
    return min_words <= len(sentence.split()) <= max_words and _REFERENCE.search(sentence) is None


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


def _by_scorer(pairs: Sequence[tuple[Example, text.SplitText]], scorer: SentenceScorer) -> list[AnnotatedResponse]:
    """Each response's sentences, then the response as a whole, scored in one call."""
    requests = [
        (example.seeker_post, part) for example, split in pairs for part in (*split.sentences, example.response_post)
    ]
    levels_NM = np.asarray(scorer(requests), dtype=np.float64)
    if levels_NM.shape != (len(requests), len(MECHANISMS)) or not np.isfinite(levels_NM).all():
        raise PartnerError(
            f"the sentence scorer answered {len(requests)} texts with an array of shape {levels_NM.shape}: "
            f"it must return finite levels of shape ({len(requests)}, {len(MECHANISMS)})"
        )
    bounds = np.cumsum([0, *(len(split.sentences) + 1 for _, split in pairs)]).tolist()
    return [
        AnnotatedResponse(
            example, split, tuple(_levels(row) for row in levels_NM[start : end - 1]), float(levels_NM[end - 1].sum())
        )
        for (example, split), (start, end) in zip(pairs, pairwise(bounds), strict=True)
    ]


def _levels(values: Sequence[float] | npt.NDArray[np.float64]) -> Levels:
    first, second, third = (float(value) for value in values)
    return first, second, third
