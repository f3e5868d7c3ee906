"""What the guards need to know of one iteration: counts that add up over a window, and no text.

Sentences and openings are kept as hashes, so that a window can be saved with the training state.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Final

import numpy as np

from envs.rewriting import written_sentences
from partner_rl import metric_names as names
from partner_rl.text.self_disclosure import speaks_of_itself
from partner_rl.text.words import ngrams, stable_hash, words_of
from partner_rl.types import ScoreRequest

OPENING_WORDS: Final = 4
"""Words at the start of a sentence that are its opening; a shorter sentence is its own."""
_REPEAT_WORDS: Final = 3
_FEWEST_POSTS: Final = 3
"""A post's words are compared with those that others share with each other."""


@dataclass(frozen=True, slots=True)
class JudgedGain:
    """What reward and held-out judge say of the same rewrites.

    Attributes:
        judge: Mean change of the empathy score (0…6) by the judge.
        reward: The same by the reward; None when empathy is no part of the reward.
        correlation: Pearson correlation of the two changes over the rewrites; None where one of them is constant.
    """

    judge: float
    reward: float | None
    correlation: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What other parts of the run measured of an iteration; None where nobody did.

    Attributes:
        kl_sentence: KL divergence from the warm-started policy, nats an action.
        position_entropy: Entropy of the position, nats.
        sentence_entropy: Entropy of the sentence's tokens, nats a token.
        fluency: Inverse perplexity of the rewritten responses.
    """

    kl_sentence: float | None = None
    position_entropy: float | None = None
    sentence_entropy: float | None = None
    fluency: float | None = None


@dataclass(frozen=True, slots=True)
class GuardMetrics:
    """An iteration's metrics; counts of 0 where there was nothing to count.

    Attributes:
        judged: What the judge says; None in iterations that it did not read.
        episodes: Rewrites, those that changed nothing included.
        disclosing: Rewrites with an inserted sentence that speaks of its writer (`partner_rl.text.self_disclosure`).
        words_original: Words of the original responses, counted for each rewrite.
        words_rewritten: Words of the rewritten responses.
        triples: Word triples inside the inserted sentences.
        repeated_triples: Those that stood in the same sentence before.
        sentences: Hash of each different inserted sentence → how often it was inserted.
        openings: Hash of each different opening of an inserted sentence → how often.
        compared: Posts whose inserted sentences could be compared with other posts.
        overlap: Sum over these of `own_overlaps`.
        squared_overlap: Sum over these of its square.
    """

    measured: Measured = field(default_factory=Measured)
    judged: JudgedGain | None = None
    episodes: int = 0
    unchanged: int = 0
    disclosing: int = 0
    words_original: int = 0
    words_rewritten: int = 0
    triples: int = 0
    repeated_triples: int = 0
    sentences: Mapping[int, int] = field(default_factory=dict)
    openings: Mapping[int, int] = field(default_factory=dict)
    compared: int = 0
    overlap: float = 0.0
    squared_overlap: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The metrics as JSON-able values."""
        return asdict(self) | {
            "sentences": [[key, count] for key, count in self.sentences.items()],
            "openings": [[key, count] for key, count in self.openings.items()],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> GuardMetrics:
        """What `as_json` returned, taken back."""
        judged = content["judged"]
        return cls(
            **{
                **content,
                "measured": Measured(**content["measured"]),
                "judged": None if judged is None else JudgedGain(**judged),
                "sentences": {int(key): int(count) for key, count in content["sentences"]},
                "openings": {int(key): int(count) for key, count in content["openings"]},
            }
        )


def guard_metrics(
    requests: Sequence[ScoreRequest], measured: Measured, judged: JudgedGain | None = None
) -> GuardMetrics:
    """The metrics of an iteration."""
    written = [words for request in requests for candidate in request.candidates if (words := words_of(candidate))]
    triples = [ngrams(words, _REPEAT_WORDS) for words in written]
    sentences, openings = sentence_counts(requests)
    overlaps = own_overlaps(requests)
    return GuardMetrics(
        measured=measured,
        judged=judged,
        episodes=len(requests),
        unchanged=sum(request.rewritten_response == request.original_response for request in requests),
        disclosing=sum(any(map(speaks_of_itself, written_sentences(request))) for request in requests),
        words_original=sum(len(words_of(request.original_response)) for request in requests),
        words_rewritten=sum(len(words_of(request.rewritten_response)) for request in requests),
        triples=sum(map(len, triples)),
        repeated_triples=sum(len(found) - len(set(found)) for found in triples),
        sentences=sentences,
        openings=openings,
        compared=len(overlaps),
        overlap=sum(overlaps),
        squared_overlap=sum(overlap**2 for overlap in overlaps),
    )


def measured_of(metrics: Mapping[str, float | None]) -> Measured:
    """What an iteration's metrics say, by the names in `partner_rl.metric_names`.

    Files that hold no KL divergence of a sentence give it by that of a token, times the position and the mean number
    of the sentence's tokens.
    """
    kl_sentence = metrics.get(names.POLICY_KL_SENTENCE)
    kl, tokens = metrics.get(names.POLICY_KL), metrics.get(names.POLICY_SENTENCE_TOKENS)
    if kl_sentence is None and kl is not None and tokens is not None:
        kl_sentence = kl * (1.0 + tokens)
    return Measured(
        kl_sentence,
        metrics.get(names.POLICY_POSITION_ENTROPY),
        metrics.get(names.POLICY_SENTENCE_ENTROPY),
        metrics.get(names.reward_detail("fluency/inverse_perplexity")),
    )


def sentence_counts(requests: Iterable[ScoreRequest]) -> tuple[Counter[int], Counter[int]]:
    """How often each inserted sentence, and each opening of one, was written; by hash, case and punctuation aside."""
    said = [words for request in requests for text in written_sentences(request) if (words := words_of(text))]
    return (
        Counter(stable_hash(words) for words in said),
        Counter(stable_hash(words[:OPENING_WORDS]) for words in said),
    )


def largest_share(counts: Mapping[int, float]) -> float:
    """Share of the commonest."""
    return max(counts.values()) / sum(counts.values())


def effective_number(counts: Mapping[int, float]) -> float:
    """The exponential of the entropy of the shares: as many equally common ones would be as hard to guess."""
    total = sum(counts.values())
    return math.exp(-sum(n / total * math.log(n / total) for n in counts.values() if n))


def own_overlaps(requests: Iterable[ScoreRequest]) -> list[float]:
    """How much more than chance the sentences inserted for a post share with that post, by post.

    With `O_ij` the share of a sentence's different words that stand in post `j`, a mean over the sentences inserted for
    post `i`, it is `O_ii` minus what these share with the other posts and the others' sentences with this one, plus
    what the others share with each other. So neither a long post nor a sentence of common words counts as specific, and
    what is said whatever the post says has exactly 0.

    Returns:
        One number for each post with an inserted sentence; none for fewer than three posts.
    """
    said: dict[str, list[set[str]]] = {}
    for request in requests:
        for text in written_sentences(request):
            if words := set(words_of(text)):
                said.setdefault(request.seeker_post, []).append(words)
    n = len(said)
    if n < _FEWEST_POSTS:
        return []
    column = {word: v for v, word in enumerate(sorted(set().union(*(words for row in said.values() for words in row))))}
    written_PV, posts_PV = np.zeros((n, len(column))), np.zeros((n, len(column)))
    for p, (post, sentences) in enumerate(said.items()):
        posts_PV[p, [column[word] for word in set(words_of(post)) if word in column]] = 1.0
        for words in sentences:
            written_PV[p, [column[word] for word in words]] += 1.0 / len(words) / len(sentences)
    shared_PP = written_PV @ posts_PV.T
    own_P = shared_PP.diagonal()
    elsewhere_P, others_P = shared_PP.sum(axis=1) - own_P, shared_PP.sum(axis=0) - own_P
    rest_P = elsewhere_P.sum() - elsewhere_P - others_P
    overlaps_P = own_P - (elsewhere_P + others_P) / (n - 1) + rest_P / ((n - 1) * (n - 2))
    return [float(overlap) for overlap in overlaps_P]


def weighted_counts(counts: Iterable[Mapping[int, int]], weights: Iterable[float]) -> dict[int, float]:
    """Counts of several iterations, each times its weight, added up."""
    total: dict[int, float] = {}
    for one, weight in zip(counts, weights, strict=True):
        for key, count in one.items():
            total[key] = total.get(key, 0.0) + weight * count
    return total


def weighted_mean(values: Iterable[float | None], weights: Iterable[float]) -> float | None:
    """Mean of the values that there are; None without one."""
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    return fmean((v for v, _ in known), (w for _, w in known)) if known else None
