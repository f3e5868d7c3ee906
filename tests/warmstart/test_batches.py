"""Tests of batches, their layout in rows and passes, and their shares."""

from __future__ import annotations

import numpy as np
import pytest

from partner_rl.warmstart.batches import (
    padded_tokens,
    passes_of,
    row_length,
    rows_of,
    share_of_process,
    shuffled_batches,
)
from rewards.training.schedule import bucketed_batches

LENGTHS = np.random.default_rng(0).integers(20, 100, 512).tolist()


@pytest.mark.parametrize("make", [bucketed_batches, lambda lengths, *rest: shuffled_batches(len(lengths), *rest)])
def test_every_example_is_in_exactly_one_batch(make) -> None:  # type: ignore[no-untyped-def]
    batches = make(LENGTHS[:333], 8, np.random.default_rng(1))
    assert sorted(example for batch in batches for example in batch) == list(range(333))
    assert max(map(len, batches)) == 8
    assert len(batches) == 42


def test_bucketed_batches_pad_less_than_random_ones() -> None:
    def padding(batches: list[list[int]]) -> int:
        rows = ([[example] for example in batch] for batch in batches)
        return sum(padded_tokens(batch, LENGTHS) for batch in rows) - sum(LENGTHS)

    random = shuffled_batches(512, 8, np.random.default_rng(1))
    assert padding(bucketed_batches(LENGTHS, 8, np.random.default_rng(1))) < padding(random) / 4


@pytest.mark.parametrize("make", [bucketed_batches, lambda lengths, *rest: shuffled_batches(len(lengths), *rest)])
def test_the_seed_decides_the_order(make) -> None:  # type: ignore[no-untyped-def]
    first = make(LENGTHS, 4, np.random.default_rng(3))
    assert first == make(LENGTHS, 4, np.random.default_rng(3))
    assert first != make(LENGTHS, 4, np.random.default_rng(4))


def test_processes_share_a_batch_evenly() -> None:
    batch = list(range(40, 57))
    shares = [share_of_process(batch, LENGTHS, process, 3) for process in range(3)]
    assert sorted(example for share in shares for example in share) == batch
    tokens = [row_length(share, LENGTHS) for share in shares]
    assert max(tokens) - min(tokens) <= max(LENGTHS)
    assert share_of_process([7], LENGTHS, 1, 2) == []


@pytest.mark.parametrize("count", [1, 3, 8, 100, 512])
def test_rows_are_few_and_equally_long_and_hold_every_example_once(count: int) -> None:
    rows = rows_of(range(count), LENGTHS, 400)
    assert sorted(example for row in rows for example in row) == list(range(count))
    tokens = [row_length(row, LENGTHS) for row in rows]
    assert max(tokens) <= 400
    assert max(tokens) - min(tokens) < max(LENGTHS)
    assert len(rows) <= sum(LENGTHS[:count]) / 400 * 1.1 + 1


def test_packed_rows_hardly_pad() -> None:
    batches = shuffled_batches(512, 16, np.random.default_rng(1))
    passes = [part for batch in batches for part in passes_of(rows_of(batch, LENGTHS, 400), LENGTHS, 2048)]
    assert sum(LENGTHS) / sum(padded_tokens(part, LENGTHS) for part in passes) > 0.95


def test_an_example_longer_than_a_row_widens_it() -> None:
    assert sorted(rows_of([0, 1, 2], [50, 10, 10], 30)) == [[0], [1, 2]]
    assert rows_of([0, 1, 2], [50, 10, 60], None) == [[2], [0], [1]]
    assert rows_of([], [], 30) == []


def test_passes_keep_within_their_tokens_and_pad_little() -> None:
    rows = rows_of(range(512), LENGTHS, None)
    passes = passes_of(rows, LENGTHS, 1000)
    assert [row for part in passes for row in part] == sorted(rows, key=lambda row: -row_length(row, LENGTHS))
    assert max(padded_tokens(part, LENGTHS) for part in passes) <= 1000
    assert sum(LENGTHS) / sum(padded_tokens(part, LENGTHS) for part in passes) > 0.9
    assert passes_of([[0]], [2000], 1000) == [[[0]]]
    assert passes_of([], LENGTHS, 1000) == []
