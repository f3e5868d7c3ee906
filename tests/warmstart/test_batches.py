"""Tests of length-bucketed batches."""

from __future__ import annotations

import numpy as np

from partner_rl.warmstart.batches import bucketed_batches, share_of_process


def test_every_row_is_in_exactly_one_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 333).tolist()
    batches = bucketed_batches(lengths, 8, np.random.default_rng(1))
    assert sorted(row for batch in batches for row in batch) == list(range(333))
    assert max(map(len, batches)) == 8


def test_batches_pad_less_than_random_ones() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 512).tolist()

    def padding(batches: list[list[int]]) -> int:
        return sum(max(lengths[row] for row in batch) - lengths[row] for batch in batches for row in batch)

    in_order = [list(range(i, i + 8)) for i in range(0, 512, 8)]
    assert padding(bucketed_batches(lengths, 8, np.random.default_rng(1))) < padding(in_order) / 4


def test_the_seed_decides_the_order() -> None:
    lengths = list(range(50))
    first = bucketed_batches(lengths, 4, np.random.default_rng(3))
    assert first == bucketed_batches(lengths, 4, np.random.default_rng(3))
    assert first != bucketed_batches(lengths, 4, np.random.default_rng(4))


def test_processes_share_all_batches_in_equal_numbers() -> None:
    batches = [[index] for index in range(7)]
    shares = [share_of_process(batches, process, 3) for process in range(3)]
    assert {len(share) for share in shares} == {3}
    assert {batch[0] for share in shares for batch in share} == set(range(7))
    assert share_of_process(batches, 0, 1) == batches
    assert share_of_process([], 0, 2) == []
