"""Pairs that say the same: exactly, or nearly so in both posts.

Exact: the words of both posts agree, whatever their case, punctuation and spacing. Near: the Jaccard similarity of the
posts' word bigrams is high for the seeker posts *and* for the responses. So a corpus that recombines posts keeps its
pairs: one agreeing side is not enough.

A pair's signature is 16 numbers of 8 bytes. Each holds 4 minimum hashes of the seeker post and 4 of the response, the
lowest byte of each, and is at the same time a band of locality-sensitive hashing (Broder 1997; Indyk, Motwani 1998):
pairs with a band in common are compared, by the share of equal bytes of each side. For similarities s and r of the
sides, the probability to be compared is about `1 − (1 − (s·r)⁴)¹⁶`, and the standard error of an
estimated similarity s is `√(s(1 − s)/64)`, 0.06 at 0.7. Minimum hashes are computed by rensa, 100 times as quickly as
by datasketch.

Memory: one band of all pairs at a time and some arrays of its length; 27 million pairs take 1.1 GB. The signatures lie
in a file.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from partner_rl.progress import Progress, no_progress

UInt64Array = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BANDS: Final = 16
"""Bands of a signature (`_D` below)."""

ROWS_PER_BAND: Final = 4
"""Minimum hashes of each side in a band."""

THRESHOLD: Final = 0.7
"""Similarity of both sides from which on pairs are duplicates."""

MAX_ROUNDS: Final = 32
"""How many pairs of one bucket the others of the bucket are compared with."""

_SEED: Final = 20210419
_HASHES: Final = BANDS * ROWS_PER_BAND
_VERIFY_PAIRS: Final = 1 << 18
_WORD: Final = re.compile(r"\w+")


def words(post: str) -> list[str]:
    """A post's words as duplicates are compared: compatibility forms unified, case folded; the post if it has none."""
    if not post.isascii():
        post = unicodedata.normalize("NFKC", post)
    return _WORD.findall(post.casefold()) or [post]


def exact_keys(seekers: Sequence[Sequence[str]], responses: Sequence[Sequence[str]]) -> UInt64Array:
    """A hash of both posts' words for each pair.

    Returns:
        keys_N. Different pairs get the same key with a probability of 2e-5 in 27 million pairs.
    """
    keys = b"".join(
        hashlib.blake2b(f"{' '.join(seeker)}\0{' '.join(response)}".encode(errors="replace"), digest_size=8).digest()
        for seeker, response in zip(seekers, responses, strict=True)
    )
    return np.frombuffer(keys, dtype=np.uint64)


def signatures(seekers: Sequence[Sequence[str]], responses: Sequence[Sequence[str]]) -> UInt64Array:
    """The signature of each pair.

    Returns:
        bands_ND. The first 4 bytes of each number belong to the seeker post.
    """
    sides = [_minimum_hashes(posts).reshape(len(posts), BANDS, ROWS_PER_BAND) for posts in (seekers, responses)]
    return np.ascontiguousarray(np.concatenate(sides, axis=2)).view(np.uint64)[:, :, 0]


def mark_exact(keys_N: UInt64Array) -> BoolArray:
    """True for each pair whose key an earlier one has."""
    duplicate_N = np.ones(len(keys_N), dtype=np.bool_)
    duplicate_N[np.unique(keys_N, return_index=True)[1]] = False
    return duplicate_N


def mark_near(
    bands_DN: npt.NDArray[np.uint64],
    candidates_N: BoolArray,
    threshold: float = THRESHOLD,
    progress: Progress = no_progress,
) -> BoolArray:
    """True for each pair that is nearly the same as an earlier one.

    A pair goes when it resembles an earlier one that has not gone yet; so the first of each group stays.

    Args:
        bands_DN: The signatures, a band a row; may be a memory map.
        candidates_N: Pairs to look at, such as those that are no exact duplicates.
        threshold: Similarity that both sides must reach.
        progress: Called with (bands done, bands).
    """
    near_N = np.zeros(bands_DN.shape[1], dtype=np.bool_)
    for band in range(len(bands_DN)):
        rows = np.flatnonzero(candidates_N & ~near_N)
        near_N[_near_in_band(bands_DN, band, rows, threshold)] = True
        progress(band + 1, len(bands_DN))
    return near_N


def similarities(bands_DN: UInt64Array, first_M: Int64Array, second_M: Int64Array) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarities of pairs of pairs.

    Returns:
        similarities_2M, of the seeker posts and of the responses; each with a standard error of up to 0.0625.
    """
    equal_2M = np.zeros((2, len(first_M)), dtype=np.int64)
    for band_N in bands_DN:
        difference_M8 = (band_N[first_M] ^ band_N[second_M]).view(np.uint8).reshape(-1, 2, ROWS_PER_BAND)
        equal_2M += (difference_M8 == 0).sum(axis=2).T
    share_2M = equal_2M / _HASHES
    # Lowest bytes agree by chance too.
    return np.clip((share_2M - 1 / 256) / (1 - 1 / 256), 0.0, 1.0)


def _minimum_hashes(posts: Sequence[Sequence[str]]) -> npt.NDArray[np.uint8]:
    shingles = [[f"{a} {b}" for a, b in pairwise(post)] or list(post) for post in posts]
    matrix: Any = RMinHash.digest_matrix_from_token_sets(shingles, _HASHES, _SEED)
    hashes = np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(posts), _HASHES)
    return (hashes & 0xFF).astype(np.uint8)


def _near_in_band(bands_DN: UInt64Array, band: int, rows: Int64Array, threshold: float) -> Int64Array:
    """The rows that resemble an earlier one of their bucket.

    In each round the first of each bucket is compared with all others; what does not resemble it is the next bucket.
    """
    rows, keys = _crowded(np.asarray(bands_DN[band])[rows], rows)
    found = [np.zeros(0, dtype=np.int64)]
    for _ in range(MAX_ROUNDS):
        if not len(rows):
            break
        first = np.concatenate(([True], keys[1:] != keys[:-1]))
        leaders = rows[first][np.cumsum(first) - 1]
        rest = np.flatnonzero(~first)
        similar = _similar(bands_DN, leaders[rest], rows[rest], threshold)
        found.append(rows[rest[similar]])
        rows, keys = rows[rest[~similar]], keys[rest[~similar]]
    return np.concatenate(found)


def _crowded(keys: UInt64Array, rows: Int64Array) -> tuple[Int64Array, UInt64Array]:
    """The rows whose key another one has, sorted by key and then by row, and their keys."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    crowded = np.concatenate((same, [False])) | np.concatenate(([False], same)) if len(keys) else same
    return rows[order[crowded]], keys[crowded]


def _similar(bands_DN: UInt64Array, first_M: Int64Array, second_M: Int64Array, threshold: float) -> BoolArray:
    parts = [
        (similarities(bands_DN, first_M[start:end], second_M[start:end]) >= threshold).all(axis=0)
        for start in range(0, len(first_M), _VERIFY_PAIRS)
        for end in (start + _VERIFY_PAIRS,)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.bool_)
