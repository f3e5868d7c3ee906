"""Quotas: closed forms, and what must hold for any counts."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from partner_rl.positions import PositionKind
from partner_rl.types import MECHANISMS
from partner_rl.warmstart.balance import even_shares
from partner_rl.warmstart.quotas import Cell, balanced_quotas

INSERT, REPLACE, NOOP = PositionKind.INSERT, PositionKind.REPLACE, PositionKind.NOOP
FIRST, SECOND, THIRD = MECHANISMS
COUNTS = st.dictionaries(
    st.builds(Cell, st.sampled_from([INSERT, REPLACE]), st.sampled_from(MECHANISMS), st.integers(0, 5))
    | st.just(Cell(NOOP, "", 9)),
    st.integers(0, 500),
)


@pytest.mark.parametrize(
    ("available", "total", "shares"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([10, 1, 10], 9, [4, 1, 4]),
        ([2, 2, 2], 5, [1, 2, 2]),
        ([5, 3], 100, [5, 3]),
        ([5, 0], 4, [4, 0]),
        ([], 4, []),
    ],
)
def test_even_shares(available: list[int], total: int, shares: list[int]) -> None:
    assert even_shares(available, total) == shares


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 200))
def test_shares_fill_the_total_as_evenly_as_the_groups_allow(available: list[int], total: int) -> None:
    shares = even_shares(available, total)
    assert sum(shares) == min(total, sum(available))
    assert all(share <= most for share, most in zip(shares, available, strict=True))
    unused = [share for share, most in zip(shares, available, strict=True) if share < most]
    assert not unused or max(shares) - min(unused) <= 1


def test_a_limit_is_filled_with_even_mechanisms_and_positions() -> None:
    available = {Cell(INSERT, mechanism, position): 1000 for mechanism in MECHANISMS for position in range(4)}
    available |= {Cell(INSERT, FIRST, 0): 90_000, Cell(INSERT, THIRD, 3): 5, Cell(NOOP, "", 9): 1000}
    available |= {Cell(REPLACE, mechanism, 6): 1000 for mechanism in MECHANISMS}
    quotas = balanced_quotas(available, max_examples=1000, noop_fraction=0.1)
    assert sum(quotas.values()) == 1000
    assert quotas[Cell(NOOP, "", 9)] == 100
    assert sum(count for cell, count in quotas.items() if cell.kind is REPLACE) == 135
    inserts = {name: [quotas[Cell(INSERT, name, place)] for place in range(4)] for name in MECHANISMS}
    assert [sum(counts) for counts in inserts.values()] == [255, 255, 255]
    assert sorted(inserts[FIRST]) == [63, 64, 64, 64]
    assert inserts[THIRD][3] == 5


def test_without_a_limit_no_cell_and_no_mechanism_drowns_the_others() -> None:
    available = {Cell(INSERT, FIRST, 0): 100_000, Cell(INSERT, FIRST, 1): 100, Cell(INSERT, SECOND, 0): 100}
    quotas = balanced_quotas(available, None, 0.0)
    # The cap of the first cell is 4 × 100, and its mechanism gives at most 2 × the 100 of the other.
    assert quotas == {Cell(INSERT, FIRST, 0): 100, Cell(INSERT, FIRST, 1): 100, Cell(INSERT, SECOND, 0): 100}


def test_no_ops_alone() -> None:
    available = {Cell(INSERT, FIRST, 0): 10, Cell(NOOP, "", 9): 8}
    assert balanced_quotas(available, 5, 1.0) == {Cell(NOOP, "", 9): 5}
    assert balanced_quotas(available, None, 1.0) == {Cell(NOOP, "", 9): 8}
    assert balanced_quotas({}, 5, 0.1) == {}


@example({Cell(INSERT, FIRST, 0): 22, Cell(NOOP, "", 9): 76}, 96, 0.775390625)
@given(COUNTS, st.none() | st.integers(1, 400), st.floats(0.0, 0.9))
def test_quotas_never_exceed_what_is_there(
    available: dict[Cell, int], max_examples: int | None, noop_fraction: float
) -> None:
    quotas = balanced_quotas(available, max_examples, noop_fraction)
    assert all(0 <= count <= available[cell] for cell, count in quotas.items())
    if max_examples is not None:
        assert sum(quotas.values()) <= max_examples
