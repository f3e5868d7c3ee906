"""Batches of examples of similar length, so that little of the computing goes into padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

POOL_BATCHES: Final = 16
"""Batches that are sorted by length together: enough to pad little, few enough to keep batches random."""


def bucketed_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """A pass over all rows in random batches whose rows are of similar length.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch; the last one of a pool may be smaller.
        rng: Source of randomness.

    Returns:
        Batches of row numbers; every row is in exactly one.
    """
    order = rng.permutation(len(lengths)).tolist()
    pool_size = POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lambda row: lengths[row])
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def share_of_process(batches: Sequence[list[int]], process: int, num_processes: int) -> list[list[int]]:
    """One process's batches, as many as every other process's: the first ones repeat to fill the last round.

    Gradients are averaged over processes after each batch, so a process with fewer batches would make the others wait
    for ever.
    """
    if not batches:
        return []
    rounds = -(-len(batches) // num_processes)
    return [batches[(turn * num_processes + process) % len(batches)] for turn in range(rounds)]
