"""Listener accuracy: does a written sentence, heard alone, tell which post it answers?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from partner_rl.evaluation.text_metrics import Embed, mean
from rewards.listener import CANDIDATES, distinct_posts, hit, other_posts


def listener_accuracy(
    seeker_posts_N: Sequence[str], sentences_N: Sequence[Sequence[str]], embed: Embed
) -> float | None:
    """How often the true post is nearer to a written sentence than `CANDIDATES` − 1 other posts: a share, chance 1/16.

    A mean over the responses into which something was written, and over the sentences of each.

    Returns:
        The share, or None where nothing was written or the posts are too few (see `listener_hits`).

    Raises:
        ValueError: As for `listener_hits`.
    """
    hits = [float(share) for share in listener_hits(seeker_posts_N, sentences_N, embed) if np.isfinite(share)]
    return mean(hits, "listener accuracy") if hits else None


def listener_hits(
    seeker_posts_N: Sequence[str], sentences_N: Sequence[Sequence[str]], embed: Embed
) -> npt.NDArray[np.float64]:
    """For each response the share of its written sentences that are nearest to their own post.

    The other posts are chosen among `seeker_posts_N` by a hash of both (`rewards.listener.other_posts`): they are the
    same for every system that answers these posts. Nearness is the cosine of the embeddings; where n posts are equally
    near, the true one among them, it counts 1/n.

    Args:
        seeker_posts_N: The posts, repeats allowed.
        sentences_N: The sentences written into each response, possibly none.
        embed: Sentence embeddings.

    Returns:
        Shares, `[N]`; NaN where no sentence was written, and throughout where there are fewer than `CANDIDATES`
        different posts.

    Raises:
        ValueError: The lists differ in length, or an embedding is zero or not a number.
    """
    if len(seeker_posts_N) != len(sentences_N):
        raise ValueError(f"listener accuracy: {len(seeker_posts_N)} posts but {len(sentences_N)} responses")
    posts = distinct_posts(seeker_posts_N)
    shares_N = np.full(len(seeker_posts_N), np.nan)
    written = [row for row, sentences in enumerate(sentences_N) if sentences]
    if len(posts) < CANDIDATES or not written:
        return shares_N
    texts = list(dict.fromkeys([*seeker_posts_N, *posts.values(), *(s for row in written for s in sentences_N[row])]))
    unit_ND, place = _unit_rows(embed(texts)), {text: row for row, text in enumerate(texts)}
    for row in written:
        post = seeker_posts_N[row]
        candidates_CD = unit_ND[[place[text] for text in (post, *other_posts(post, posts, CANDIDATES - 1))]]
        sentences_SD = unit_ND[[place[sentence] for sentence in sentences_N[row]]]
        shares_N[row] = np.mean([hit(candidates_CD @ sentence_D) for sentence_D in sentences_SD])
    return shares_N


def _unit_rows(rows_ND: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    norms_N1 = np.linalg.norm(rows_ND.astype(np.float64), axis=1, keepdims=True)
    if not np.all(norms_N1 > 0):
        raise ValueError("listener accuracy: the embedding of a text is zero or not a number")
    unit_ND: npt.NDArray[np.float64] = rows_ND / norms_N1
    return unit_ND
