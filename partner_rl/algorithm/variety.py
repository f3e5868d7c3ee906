"""A reward for saying to this seeker what is not said to everybody.

Empathy alone is cheapest with one warm sentence for all posts. Variety is the weighted mean of two metrics, both of
what stands in the inserted text, compared with this iteration's and the last `window` rewrites:

- **word pairs**: the rewrite's share in distinct-2 (Li et al., NAACL 2016). With `n(b)` the times that pair `b` was
  written, it is the mean of `1/n(b)` over the rewrite's pairs; the mean of that over all pairs is the number of
  different pairs over the number of all.
- **sentences**: how new the commonest of the rewrite's sentences is. With `s` the share of the window that holds it, 1
  as long as `s` is within a tolerance `t`, then `1 - log(s / t) / log(1 / t)`, which falls to 0 for what all say. Below
  the tolerance nothing is to be gained by being stranger still. With `opening_words` the first words of a sentence
  count as one, too: "I'm sorry to hear" in every rewrite is common, however it goes on.

Word pairs alone let one opening sentence stand in every rewrite, followed by something new, and forbid "I'm sorry that
...", whatever follows, and with it most emotional reactions.

Unlike the components in `rewards/`, it belongs to no response by itself: it depends on what else is written, so that
the driver computes it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from envs.rewriting import written_sentences
from partner_rl.algorithm.trajectory import SampledGroup, Trajectory
from partner_rl.text.words import ngrams, stable_hash, words_of
from partner_rl.types import ScoreRequest

VARIETY: Final = "variety"
"""Name of the component, as in `rewards.variety`."""
WORD_PAIRS: Final = f"{VARIETY}/word_pairs"
SENTENCES: Final = f"{VARIETY}/sentences"
"""Its two parts among the details of a reward."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a rewrite says that its original did not.

    Attributes:
        pairs: Hashes of the word pairs, within each inserted candidate.
        sentences: Hashes of the different inserted sentences, and of their openings where these count.
    """

    pairs: tuple[int, ...]
    sentences: tuple[int, ...]


class Counts:
    """How often word pairs, and in how many rewrites sentences, were written."""

    def __init__(self) -> None:
        self.pairs: Counter[int] = Counter()
        self.sentences: Counter[int] = Counter()

    def add(self, written: Written) -> None:
        """Count a rewrite."""
        self.pairs.update(written.pairs)
        self.sentences.update(written.sentences)

    def remove(self, written: Written) -> None:
        """Forget a rewrite that was counted."""
        for counter, row in ((self.pairs, written.pairs), (self.sentences, written.sentences)):
            counter.subtract(row)
            for key in set(row):
                if not counter[key]:
                    del counter[key]


class Variety:
    """Rewards what is rarely written, and remembers the rewrites before.

    Args:
        window: Rewrites that are remembered.
        sentence_share: Weight of the sentences in the component, 0 to 1; the rest is that of the word pairs.
        tolerance: Share of the window that may hold a sentence at no cost, between 0 and 1.
        opening_words: Words at the start of a sentence that count as a sentence of their own; 0 for none.
    """

    def __init__(self, window: int, sentence_share: float, tolerance: float, opening_words: int = 0) -> None:
        self._window = window
        self._sentence_share = sentence_share
        self._tolerance = tolerance
        self._opening_words = opening_words
        self._recent: deque[Written] = deque()
        self._counts = Counts()

    def scored(self, groups: Sequence[SampledGroup]) -> list[SampledGroup]:
        """The groups with the component in their scores; their rewrites are remembered, greedy rollouts are not."""
        rows = [[_written(t.request, self._opening_words) for t in group.trajectories] for group in groups]
        for row in rows:
            for written in row:
                self._counts.add(written)
                self._recent.append(written)
        scored = [
            replace(
                group,
                trajectories=tuple(self._with(t, w) for t, w in zip(group.trajectories, row, strict=True)),
                greedy=self._with_uncounted(group.greedy) if group.greedy else None,
            )
            for group, row in zip(groups, rows, strict=True)
        ]
        self._forget()
        return scored

    def _with(self, trajectory: Trajectory, written: Written) -> Trajectory:
        """The trajectory with the component; `written` must have been counted."""
        pairs = share_in_distinct_2(written.pairs, self._counts.pairs)
        sentences = novelty(self._commonness(written), self._tolerance)
        value = pairs + self._sentence_share * (sentences - pairs)
        return trajectory.with_score(VARIETY, value, {WORD_PAIRS: pairs, SENTENCES: sentences})

    def _commonness(self, written: Written) -> float:
        """Share of the window, itself aside, that holds the commonest of its sentences; 1 without a sentence."""
        if not written.sentences:
            return 1.0
        others = max(self._counts.sentences[sentence] for sentence in written.sentences) - 1
        return min(1.0, others / self._window)

    def _with_uncounted(self, trajectory: Trajectory) -> Trajectory:
        """As `_with`, for a greedy rollout: counted for itself alone."""
        written = _written(trajectory.request, self._opening_words)
        self._counts.add(written)
        found = self._with(trajectory, written)
        self._counts.remove(written)
        return found

    def _forget(self) -> None:
        while len(self._recent) > self._window:
            self._counts.remove(self._recent.popleft())

    def state(self) -> list[list[list[int]]]:
        """What must be saved for an exact resume, as JSON."""
        return [[list(written.pairs), list(written.sentences)] for written in self._recent]

    def restore(self, state: Sequence[Sequence[Sequence[int]]]) -> None:
        """Takes back what `state` returned."""
        self._recent, self._counts = deque(), Counts()
        for pairs, sentences in state:
            written = Written(tuple(pairs), tuple(sentences))
            self._recent.append(written)
            self._counts.add(written)


def share_in_distinct_2(pairs: Sequence[int], counts: Mapping[int, int]) -> float:
    """Mean over the pairs of one over how often each was written; 0 without a pair.

    Args:
        pairs: Hashes of a rewrite's word pairs.
        counts: Pair → how often it was written by all rewrites, this one included.
    """
    return fmean(1.0 / counts[pair] for pair in pairs) if pairs else 0.0


def novelty(share: float, tolerance: float) -> float:
    """1 up to the tolerance, from there down to 0 for what all rewrites hold, by the logarithm of the share."""
    return 1.0 - math.log(max(share, tolerance) / tolerance) / math.log(1.0 / tolerance)


def _written(request: ScoreRequest, opening_words: int) -> Written:
    pairs = [pair for candidate in request.candidates for pair in ngrams(words_of(candidate), 2)]
    sentences = {words_of(sentence) for sentence in written_sentences(request)} - {()}
    if opening_words:
        sentences |= {words[:opening_words] for words in sentences}
    return Written(tuple(map(stable_hash, pairs)), tuple(sorted(map(stable_hash, sentences))))
