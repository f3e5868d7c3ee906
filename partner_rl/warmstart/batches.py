"""Which examples make an optimizer step, and how a step's examples are laid out in rows and passes.

Every process computes the same plan and takes its share of each step, so that the number of processes changes neither
the steps nor what they learn from. Lengths are in tokens; examples are named by their numbers.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

Row = list[int]
"""The examples of one row."""


def shuffled_batches(count: int, batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """A pass over all examples in random batches; the last one may be smaller."""
    order = rng.permutation(count).tolist()
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def share_of_process(batch: Sequence[int], lengths: Sequence[int], process: int, num_processes: int) -> list[int]:
    """One process's part of a batch: about as many tokens as every other process's; empty when there are too few."""
    longest_first = sorted(batch, key=lambda example: (-lengths[example], example))
    return longest_first[process::num_processes]


def rows_of(examples: Sequence[int], lengths: Sequence[int], row_tokens: int | None) -> list[Row]:
    """Puts examples into as few rows of at most `row_tokens` tokens as it can, all rows about equally long.

    Rows that are equally long need no padding when they are computed together.

    Args:
        examples: The examples.
        lengths: Tokens of each example, by its number.
        row_tokens: Room of a row, or of its only example when that is longer. None gives every example its own row.
    """
    longest_first = sorted(examples, key=lambda example: (-lengths[example], example))
    if row_tokens is None or not longest_first:
        return [[example] for example in longest_first]
    room = max(row_tokens, lengths[longest_first[0]])
    count = -(-row_length(longest_first, lengths) // room)
    rows = _spread(longest_first, lengths, count)
    while max(row_length(row, lengths) for row in rows) > room:
        count += 1
        rows = _spread(longest_first, lengths, count)
    return rows


def _spread(longest_first: Sequence[int], lengths: Sequence[int], count: int) -> list[Row]:
    """Each example in turn into the row that is the shortest by then."""
    rows: list[Row] = [[] for _ in range(count)]
    shortest = [(0, index) for index in range(count)]
    for example in longest_first:
        tokens, index = heapq.heappop(shortest)
        rows[index].append(example)
        heapq.heappush(shortest, (tokens + lengths[example], index))
    return rows


def passes_of(rows: Sequence[Row], lengths: Sequence[int], max_tokens: int) -> list[list[Row]]:
    """Groups rows of similar length so that each forward pass has at most `max_tokens` tokens, padding included.

    A row that is longer than `max_tokens` is a pass of its own.
    """
    passes: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -row_length(row, lengths)):
        # The first row of a pass is its longest, which the others are padded to.
        if passes and (len(passes[-1]) + 1) * row_length(passes[-1][0], lengths) <= max_tokens:
            passes[-1].append(row)
        else:
            passes.append([row])
    return passes


def row_length(row: Sequence[int], lengths: Sequence[int]) -> int:
    """Tokens of a row."""
    return sum(lengths[example] for example in row)


def padded_tokens(rows: Sequence[Row], lengths: Sequence[int]) -> int:
    """Tokens of a forward pass over the rows, padding included."""
    return len(rows) * max(row_length(row, lengths) for row in rows)
