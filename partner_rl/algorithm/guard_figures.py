"""What the guards need to know of one iteration: counts that add up over a window, and no text.

Sentences and word pairs are kept as hashes, so that a window can be saved with the training state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from envs.rewriting import written_sentences
from partner_rl.algorithm.words import ngrams, stable_hash, words_of
from partner_rl.self_disclosure import speaks_of_itself
from partner_rl.types import ScoreRequest

_REPEAT_WORDS: Final = 3


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
class GuardFigures:
    """An iteration's figures.

    Attributes:
        episodes: Rewrites, those that changed nothing included.
        unchanged: Those that changed nothing.
        words_original: Words of the original responses, counted for each rewrite.
        words_rewritten: Words of the rewritten responses.
        triples: Word triples inside the inserted sentences.
        repeated_triples: Those that stood in the same sentence before.
        pairs: Word pairs inside the inserted sentences.
        pair_hashes: Hash of each different pair, ascending.
        sentences: Hash of each different inserted sentence → how often it was inserted.
        kl: KL divergence from the warm-started policy, nats a token; None when it was not measured.
        position_entropy: Entropy of the position, nats.
        judged: What the judge says; None in iterations that it did not read.
        disclosing: Rewrites with an inserted sentence that speaks of its writer (`partner_rl.self_disclosure`).
    """

    episodes: int
    unchanged: int
    words_original: int
    words_rewritten: int
    triples: int
    repeated_triples: int
    pairs: int
    pair_hashes: tuple[int, ...]
    sentences: Mapping[int, int]
    kl: float | None
    position_entropy: float
    judged: JudgedGain | None = None
    disclosing: int = 0

    def as_json(self) -> dict[str, Any]:
        """The figures as JSON-able values."""
        return asdict(self) | {
            "pair_hashes": list(self.pair_hashes),
            "sentences": [[key, count] for key, count in self.sentences.items()],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> GuardFigures:
        """What `as_json` returned, taken back."""
        judged = content["judged"]
        return cls(
            **{
                **content,
                "pair_hashes": tuple(content["pair_hashes"]),
                "sentences": {int(key): int(count) for key, count in content["sentences"]},
                "judged": None if judged is None else JudgedGain(**judged),
            }
        )


def guard_figures(
    requests: Sequence[ScoreRequest],
    kl: float | None,
    position_entropy: float,
    judged: JudgedGain | None = None,
) -> GuardFigures:
    """The figures of an iteration.

    Args:
        requests: Its rewrites; what was generated stands in `candidates`.
        kl: KL divergence, nats a token, or None.
        position_entropy: Entropy of the position, nats.
        judged: What the judge says of these rewrites, if it read them.
    """
    written = [words for request in requests for candidate in request.candidates if (words := words_of(candidate))]
    pairs = [pair for words in written for pair in ngrams(words, 2)]
    triples = [ngrams(words, _REPEAT_WORDS) for words in written]
    sentences = [words for request in requests for text in written_sentences(request) if (words := words_of(text))]
    return GuardFigures(
        episodes=len(requests),
        unchanged=sum(request.rewritten_response == request.original_response for request in requests),
        words_original=sum(len(words_of(request.original_response)) for request in requests),
        words_rewritten=sum(len(words_of(request.rewritten_response)) for request in requests),
        triples=sum(map(len, triples)),
        repeated_triples=sum(len(found) - len(set(found)) for found in triples),
        pairs=len(pairs),
        pair_hashes=tuple(sorted({stable_hash(pair) for pair in set(pairs)})),
        sentences=Counter(stable_hash(words) for words in sentences),
        kl=kl,
        position_entropy=position_entropy,
        judged=judged,
        disclosing=sum(any(map(speaks_of_itself, written_sentences(request))) for request in requests),
    )
