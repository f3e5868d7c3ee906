"""The metrics of a report: what each is called, which way is better, and how it follows from the scores of pairs.

A metric is the mean of a value that each pair has (`MeanMetric`) or a count over the whole corpus (`CorpusMetric`).
docs/evaluation.md says where each comes from and what it does not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from envs.rewriting import written_sentences
from partner_rl.evaluation import corpus_metrics
from partner_rl.evaluation.resampling import Floats, Statistic
from partner_rl.evaluation.system_scores import SystemScores
from partner_rl.types import MECHANISMS, ScoreRequest
from rewards.listener import CANDIDATES

MADE_WORSE: Final = 0.5
"""A response is made worse when its empathy falls by more than this many expected points. Half a point is
the distance at which a rounded level changes."""

Better = Literal["higher", "lower", ""]
"""Which way a metric is better; "" where neither is."""
_ARROWS: Final[dict[Better, str]] = {"higher": "↑", "lower": "↓", "": ""}


@dataclass(frozen=True, slots=True)
class Metric:
    """What every metric has: its name in files and in tables, the format of its value, and what it is in a line."""

    key: str
    label: str
    better: Better
    form: str
    definition: str

    @property
    def title(self) -> str:
        """The label with an arrow up where higher is better, and down where lower is."""
        return f"{self.label} {_ARROWS[self.better]}".strip()


@dataclass(frozen=True, slots=True)
class MeanMetric(Metric):
    """A mean over pairs.

    Attributes:
        values: (A system's scores, the originals' where there are any) → one value a pair, NaN where that pair has
            nothing to measure; or None where none has.
        exponential: The metric is exp of the mean; a comparison is then the ratio of two systems.
        compared: Whether systems are tested against each other on it.
    """

    values: Callable[[SystemScores, SystemScores | None], Floats | None]
    exponential: bool = False
    share: bool = False
    compared: bool = True


@dataclass(frozen=True, slots=True)
class CorpusMetric(Metric):
    """A count over all rewrites.

    Attributes:
        statistic: (Rewrites, mean bigrams of a response of the system that wrote the fewest) → the metric of any
            selection of the rewrites.
    """

    statistic: Callable[[Sequence[ScoreRequest], float], Statistic]


def _changes(mechanism: int) -> Callable[[SystemScores, SystemScores | None], Floats]:
    return lambda scores, _: scores.change_NM[:, mechanism]


def _judged_changes(mechanism: int) -> Callable[[SystemScores, SystemScores | None], Floats | None]:
    return lambda scores, _: None if scores.judge_change_NM is None else scores.judge_change_NM[:, mechanism]


def _rewrites(requests: Sequence[ScoreRequest]) -> list[str]:
    return [request.rewritten_response for request in requests]


def _written(requests: Sequence[ScoreRequest]) -> list[tuple[str, ...]]:
    return [written_sentences(request) for request in requests]


_EMPATHY: Final[tuple[MeanMetric | CorpusMetric, ...]] = (
    MeanMetric(
        "change_in_empathy",
        "change in empathy",
        "higher",
        "+.3f",
        "mean change of the empathy score, 0 to 6, by the reward's classifier",
        lambda scores, _: scores.change_NM.sum(axis=1),
    ),
    *(
        MeanMetric(
            name,
            f"– {name.replace('_', ' ')}",
            "higher",
            "+.3f",
            "mean change of this mechanism's level, 0 to 2, by the reward's classifier",
            _changes(index),
        )
        for index, name in enumerate(MECHANISMS)
    ),
    MeanMetric(
        "judge_change",
        "change by the judge",
        "higher",
        "+.3f",
        "mean change of the empathy score, 0 to 6, by the held-out judge",
        lambda scores, _: None if scores.judge_change_NM is None else scores.judge_change_NM.sum(axis=1),
    ),
    *(
        MeanMetric(
            f"judge_{name}",
            f"– {name.replace('_', ' ')}, judge",
            "higher",
            "+.3f",
            "mean change of this mechanism's level, 0 to 2, by the held-out judge",
            _judged_changes(index),
        )
        for index, name in enumerate(MECHANISMS)
    ),
    MeanMetric(
        "made_worse",
        "made worse",
        "lower",
        ".1%",
        f"share of responses whose empathy falls by more than {MADE_WORSE:g} points, by the reward's classifier",
        lambda scores, _: (scores.change_NM.sum(axis=1) < -MADE_WORSE).astype(np.float64),
        share=True,
    ),
)

_LANGUAGE: Final[tuple[MeanMetric | CorpusMetric, ...]] = (
    MeanMetric(
        "perplexity",
        "perplexity",
        "lower",
        ".1f",
        "exp of the mean over responses of the negative log-likelihood a token, by the reward's language model",
        lambda scores, _: scores.surprisal_N,
        exponential=True,
    ),
    MeanMetric(
        "perplexity_ratio",
        "perplexity, × originals",
        "lower",
        ".3f",
        "perplexity over that of the original responses",
        lambda scores, original: None if original is None else scores.surprisal_N - original.surprisal_N,
        exponential=True,
        compared=False,
    ),
    MeanMetric(
        "coherence",
        "sentence coherence",
        "higher",
        ".3f",
        "mean probability that two sentences of a response belong to one response",
        lambda scores, _: scores.coherence_N,
    ),
    MeanMetric(
        "specificity",
        "specificity",
        "higher",
        ".3f",
        "mean cosine similarity of the embeddings of the seeker's post and the response",
        lambda scores, _: scores.specificity_N,
    ),
    MeanMetric(
        "listener_accuracy",
        "listener accuracy",
        "higher",
        ".1%",
        f"share of the written sentences that, heard alone, are nearer to their post than to {CANDIDATES - 1} others: "
        f"chance is {1 / CANDIDATES:.1%}",
        lambda scores, _: scores.listener_N,
    ),
    MeanMetric(
        "mutual_information",
        "mutual information",
        "higher",
        ".3f",
        "mean of the mutual information reward, nats a token",
        lambda scores, _: scores.mutual_information_N,
    ),
)

_VARIETY: Final[tuple[MeanMetric | CorpusMetric, ...]] = (
    CorpusMetric(
        "distinct_1",
        "distinct-1",
        "higher",
        ".3f",
        "different words over words",
        lambda requests, _: corpus_metrics.distinct_ngrams(_rewrites(requests), 1),
    ),
    CorpusMetric(
        "distinct_2",
        "distinct-2",
        "higher",
        ".3f",
        "different word pairs over word pairs",
        lambda requests, _: corpus_metrics.distinct_ngrams(_rewrites(requests), 2),
    ),
    CorpusMetric(
        "distinct_2_controlled",
        "distinct-2, equal length",
        "higher",
        ".3f",
        "distinct-2 of the first word pairs, as many for every system as the tersest one wrote",
        lambda requests, bigrams: corpus_metrics.distinct_ngrams(_rewrites(requests), 2, bigrams),
    ),
    MeanMetric(
        "self_bleu",
        "self-BLEU",
        "lower",
        ".3f",
        "mean BLEU-4 of a response against other responses of the same system",
        lambda scores, _: scores.self_bleu_N,
    ),
    CorpusMetric(
        "distinct_sentences",
        "distinct sentences",
        "higher",
        ".1%",
        "share of the written sentences that are different",
        lambda requests, _: corpus_metrics.distinct_written(_written(requests)),
    ),
    CorpusMetric(
        "commonest_sentence",
        "commonest sentence",
        "lower",
        ".1%",
        "share of the written sentences that are the most frequent one",
        lambda requests, _: corpus_metrics.commonest_written(_written(requests)),
    ),
    CorpusMetric(
        "commonest_in_rewrites",
        "rewrites with the commonest",
        "lower",
        ".1%",
        "share of all responses that hold the sentence which the system writes into most of them",
        lambda requests, _: corpus_metrics.commonest_in_rewrites(_written(requests)),
    ),
    MeanMetric(
        "repeated",
        "repetition",
        "lower",
        ".1%",
        "mean share of a response's tokens that repeat an earlier passage of it",
        lambda scores, _: scores.repeated_N,
    ),
)

_EDITING: Final[tuple[MeanMetric | CorpusMetric, ...]] = (
    MeanMetric(
        "edit_rate",
        "edit rate",
        "lower",
        ".3f",
        "mean word-level edit distance over the original's words",
        lambda scores, _: scores.edit_rate_N,
    ),
    MeanMetric(
        "unchanged",
        "unchanged",
        "",
        ".1%",
        "share of responses that are left as they were",
        lambda scores, _: scores.unchanged_N.astype(np.float64),
        share=True,
    ),
    MeanMetric(
        "self_disclosure",
        "invented experience",
        "lower",
        ".1%",
        "share of responses into which rules find a sentence about the writer's own life written; a lower bound",
        lambda scores, _: scores.discloses_N.astype(np.float64),
        share=True,
    ),
    MeanMetric("length", "length", "", ".1f", "mean words of a response", lambda scores, _: scores.length_N),
)

METRICS: Final[tuple[MeanMetric | CorpusMetric, ...]] = (*_EMPATHY, *_LANGUAGE, *_VARIETY, *_EDITING)
"""The metrics in the order of the report."""
