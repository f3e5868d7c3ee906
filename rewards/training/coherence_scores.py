"""How well a score tells sentences of one response from sentences of two: the classifier and two baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.types import Example, PartnerError
from rewards.coherence_model import CoherenceClassifier
from rewards.training.intervals import IntArray, bootstrap_interval
from rewards.training.sentence_pairs import (
    PairTrial,
    SplitSentences,
    draw_trials,
    embed_texts,
    same_topic,
    split_responses,
)

PairScore = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float64]]
"""Scores of pairs of sentences; higher means more likely of one response."""


@dataclass(frozen=True, slots=True)
class NegativesScores:
    """Scores against one kind of negatives, as many as positives.

    Attributes:
        auc_interval: 95 % bootstrap interval of the area, responses resampled.
    """

    accuracy: float
    auc: float
    auc_interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class CoherenceScores:
    """Scores against each kind of negatives.

    Attributes:
        easy: Against sentences of random other seekers' responses.
        hard: Against sentences of responses about the same topic.
        mix: Against both, half of each.
        pairs: Positive pairs; there are as many negatives of each kind.
    """

    easy: NegativesScores
    hard: NegativesScores
    mix: NegativesScores
    pairs: int
    responses: int


@dataclass(frozen=True, slots=True)
class CoherenceTestReport:
    """Held-out scores of the classifier and of two baselines on the same pairs.

    Attributes:
        classifier: The trained classifier, threshold 0.5.
        embedding_cosine: Cosine of the pretrained encoder's sentence vectors, threshold chosen on the dev pairs.
        bag_of_words: Cosine of TF-IDF vectors over words, threshold chosen on the dev pairs.
    """

    classifier: CoherenceScores
    embedding_cosine: CoherenceScores
    bag_of_words: CoherenceScores
    pairs_per_second: float


def classifier_scores(classifier: CoherenceClassifier, trials: Sequence[PairTrial], seed: int) -> CoherenceScores:
    """The classifier's scores on some trials."""
    return pair_scores(lambda pairs: classifier.probabilities(pairs).double().numpy(), trials, 0.5, seed)


def pair_scores(score: PairScore, trials: Sequence[PairTrial], threshold: float, seed: int) -> CoherenceScores:
    """How well a score does on some trials, at least one."""
    own, easy, hard = _scored(score, trials)
    # Every other negative of each kind.
    mix = np.where(np.arange(len(trials)) % 2 == 0, easy, hard)
    clusters = np.array([trial.response for trial in trials], dtype=np.int64)
    found = {
        name: _against(own, negative, threshold, clusters, seed)
        for name, negative in (("easy", easy), ("hard", hard), ("mix", mix))
    }
    return CoherenceScores(**found, pairs=len(trials), responses=len(set(clusters.tolist())))


def held_out_report(
    classifier: CoherenceClassifier,
    examples_dev: Sequence[Example],
    examples_test: Sequence[Example],
    encoder_path: Path,
    settings: RewardTrainingConfig,
    seed: int,
    split_sentences: SplitSentences,
    device: str = "cpu",
) -> CoherenceTestReport:
    """Score held-out pairs with the classifier and the baselines.

    The dev pairs choose the baselines' thresholds; the pretrained encoder finds the topics and is a baseline.

    Raises:
        PartnerError: The test split gives no pair, or the encoder cannot be loaded.
    """
    drawn = []
    for examples in (examples_dev, examples_test):
        responses = split_responses(examples, split_sentences)
        posts = [example.seeker_post for example in examples]
        vectors = embed_texts(encoder_path, posts, settings.max_tokens, device)
        topics = same_topic(responses, vectors, settings.coherence_neighbours)
        drawn.append(draw_trials(responses, topics, np.random.default_rng(seed)))
    dev, test = drawn
    if not test:
        raise PartnerError(
            "the test split gives no pair of sentences: give more pairs, or leave more seekers to it (data.*_fraction)"
        )
    sentences = [s for trial in [*dev, *test] for s in (trial.first, trial.own, trial.easy, trial.hard)]
    cosine = _embedding_cosine(encoder_path, sentences, settings.max_tokens, device)
    words = _word_cosine(sentences)
    start = time.perf_counter()
    scores = classifier_scores(classifier, test, seed)
    speed = 3 * len(test) / (time.perf_counter() - start)
    return CoherenceTestReport(
        scores,
        pair_scores(cosine, test, _best_threshold(cosine, dev), seed),
        pair_scores(words, test, _best_threshold(words, dev), seed),
        speed,
    )


def _scored(score: PairScore, trials: Sequence[PairTrial]) -> tuple[npt.NDArray[np.float64], ...]:
    """Scores of the positives, the easy and the hard negatives."""
    firsts = [trial.first for trial in trials]
    seconds = [*(t.own for t in trials), *(t.easy for t in trials), *(t.hard for t in trials)]
    values = score(list(zip(firsts * 3, seconds, strict=True)))
    return tuple(np.split(values, 3))


def _against(
    own: npt.NDArray[np.float64],
    negative: npt.NDArray[np.float64],
    threshold: float,
    clusters: IntArray,
    seed: int,
) -> NegativesScores:
    def auc(rows: IntArray) -> float:
        # Mann and Whitney's statistic: scikit-learn's function takes five times as long, and there are many resamples.
        count = len(rows)
        ranks = rankdata(np.concatenate([own[rows], negative[rows]]))
        return float((ranks[:count].sum() - count * (count + 1) / 2) / count**2)

    accuracy = float(((own > threshold).mean() + (negative <= threshold).mean()) / 2)
    every = np.arange(len(own), dtype=np.int64)
    return NegativesScores(accuracy, auc(every), bootstrap_interval(auc, clusters, seed))


def _best_threshold(score: PairScore, trials: Sequence[PairTrial]) -> float:
    """The threshold with the best accuracy against both kinds of negatives; 0.5 without trials."""
    if not trials:
        return 0.5
    own, easy, hard = _scored(score, trials)
    candidates = np.unique(np.concatenate([own, easy, hard]))
    accuracies = [
        (own > threshold).mean() + ((easy <= threshold).mean() + (hard <= threshold).mean()) / 2
        for threshold in candidates
    ]
    return float(candidates[int(np.argmax(accuracies))])


def _embedding_cosine(encoder_path: Path, sentences: Sequence[str], max_tokens: int, device: str) -> PairScore:
    distinct = list(dict.fromkeys(sentences))
    vectors_ND = embed_texts(encoder_path, distinct, max_tokens, device).astype(np.float64)
    row = {sentence: index for index, sentence in enumerate(distinct)}

    def score(pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        first, second = [row[a] for a, _ in pairs], [row[b] for _, b in pairs]
        cosines: npt.NDArray[np.float64] = (vectors_ND[first] * vectors_ND[second]).sum(1)
        return cosines

    return score


def _word_cosine(sentences: Sequence[str]) -> PairScore:
    """Cosine of TF-IDF vectors; the inverse document frequencies need no labels and are those of the scored texts."""
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(list(dict.fromkeys(sentences)))

    def score(pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
        first = vectorizer.transform([a for a, _ in pairs])
        second = vectorizer.transform([b for _, b in pairs])
        return np.asarray(first.multiply(second).sum(1), dtype=np.float64).ravel()

    return score
