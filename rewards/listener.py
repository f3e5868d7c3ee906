"""The reward for a sentence that tells its post apart: a listener who hears it alone guesses which post it answers.

    r = log p(S | sentence) = log softmax_j(relation(S_j, sentence) / temperature) at the true post S

over `candidates` posts: the true one and others. A sentence that could be said to anybody leaves the listener with
chance, −log candidates, which is also the value of a response into which nothing was written. The others are
training posts, chosen by a hash of both posts: they depend on the true post alone, so that all samples of a group face
the same ones, and a score does not depend on what else is in the batch. The relation is the cosine of sentence
embeddings, or what a backward language model learns about the post from the sentence (`rewards.listener_models`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import nsmallest
from typing import Final

import numpy as np
import numpy.typing as npt

from partner_rl.data.splits import hash_fraction
from partner_rl.types import PartnerError, ScoreRequest
from rewards.scorer import ComponentScore, FloatArray, Item

NAME: Final = "listener"
CANDIDATES: Final = 16
"""Posts that the true one is told apart from and itself: chance is 1 in this many."""
POOL_POSTS: Final = 512
"""Training posts that a scorer draws from."""

_TIE: Final = 1e-6
"""Relations that differ by less are equal: batches differ in the last bits."""

Relate = Callable[[Sequence[tuple[str, str]]], FloatArray]
"""(Post, sentence) pairs → how well each post goes with its sentence, `[n]`; a pair's value depends on it alone."""
Posts = Mapping[str, str]
"""Different posts, each under its `post_key`."""


def post_key(post: str) -> str:
    """What makes two posts the same: their text, white space and case aside."""
    return " ".join(post.split()).casefold()


def distinct_posts(posts: Iterable[str], limit: int | None = None) -> Posts:
    """The different ones among some posts, the blank ones left out.

    A limit chooses by hash, so that a larger corpus changes few of them.
    """
    # Of two spellings the same one whatever the order.
    found = {post_key(post): post for post in sorted(posts, reverse=True) if post.strip()}
    if limit is None or len(found) <= limit:
        return found
    return {key: found[key] for key in nsmallest(limit, found, key=lambda key: hash_fraction("", key))}


def other_posts(post: str, posts: Posts, count: int) -> tuple[str, ...]:
    """The posts that a post is to be told apart from: those whose hash together with it is smallest.

    They do not depend on the order of `posts`, and another post among these changes one of them at most.

    Args:
        post: The true post, which need not be among `posts` and is never among the others.
        posts: What to choose from.
        count: How many; fewer where there are not as many.
    """
    own = post_key(post)
    chosen = nsmallest(count, (key for key in posts if key != own), key=lambda key: hash_fraction(own, key))
    return tuple(posts[key] for key in chosen)


def log_posterior(relations_C: npt.ArrayLike, temperature: float) -> float:
    """The log-probability of the true post, nats: softmax of the candidates' relations divided by the temperature.

    Args:
        relations_C: Relation of each candidate to the sentence; the true post's comes first.
        temperature: In units of the relation.
    """
    scaled_C = np.asarray(relations_C, dtype=np.float64) / temperature
    return float(scaled_C[0] - np.logaddexp.reduce(scaled_C))


def hit(relations_C: npt.ArrayLike) -> float:
    """1 where the true post's relation, the first, is the largest, 0 where it is not; 1/n where n are the largest."""
    values_C = np.asarray(relations_C, dtype=np.float64)
    largest_C = values_C >= values_C.max() - _TIE
    return float(largest_C[0] / largest_C.sum())


@dataclass(frozen=True, slots=True)
class ListenerReward:
    """Asks for the guess that each generated sentence leads to; item: (seeker post, sentence)."""

    candidates: int = CANDIDATES
    name: str = NAME
    width: int = 2

    def items(self, request: ScoreRequest) -> tuple[Item, ...]:
        """The post with each generated sentence; blank ones take no part."""
        return tuple((request.seeker_post, candidate) for candidate in request.candidates if candidate.strip())

    def combine(self, request: ScoreRequest, values: FloatArray) -> ComponentScore:
        """The mean log-probability of the true post, or that of chance where nothing was written; detail: accuracy."""
        if not len(values):
            return ComponentScore(-float(np.log(self.candidates)), {"accuracy": 1.0 / self.candidates})
        value, accuracy = (float(x) for x in values.mean(axis=0, dtype=np.float64))
        return ComponentScore(value, {"accuracy": accuracy})


class ListenerScorer:
    """Log-probability of the true post of (seeker post, sentence) items, and whether it is the likeliest."""

    name = NAME

    def __init__(self, relate: Relate, posts: Posts, candidates: int, temperature: float) -> None:
        """Take a relation of posts to sentences and the posts to choose the others from.

        Raises:
            PartnerError: There are not enough different posts.
        """
        if len(posts) < candidates:
            raise PartnerError(
                f"the reward {NAME!r} tells {candidates} posts apart, and there are {len(posts)} different training "
                "posts: give more data, or lower rewards.listener.candidates"
            )
        self._relate = relate
        self._temperature = temperature
        # A group asks for the same post over and over.
        self._others = lru_cache(maxsize=4096)(lambda post: other_posts(post, posts, candidates - 1))

    def score(self, items: Sequence[Item]) -> FloatArray:
        """Log-probability, nats, and hit (see `hit`): shape `[n_items, 2]`."""
        asked = [[(candidate, sentence) for candidate in (post, *self._others(post))] for post, sentence in items]
        pairs = list(dict.fromkeys(pair for row in asked for pair in row))
        found = dict(zip(pairs, self._relate(pairs).tolist(), strict=True)) if pairs else {}
        rows = []
        for row in asked:
            relations_C = [found[pair] for pair in row]
            rows.append((log_posterior(relations_C, self._temperature), hit(relations_C)))
        return np.array(rows, dtype=np.float32).reshape(len(items), 2)
