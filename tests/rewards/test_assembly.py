"""Items are gathered once, and malformed answers are refused by name and row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partner_rl.types import PartnerError, ScoreRequest
from rewards.assembly import assemble, check_rows, collect_items
from rewards.batching import item_order, length_batches
from rewards.empathy import EmpathyReward


def test_repeated_items_are_collected_once_and_shared_out_again():
    requests = [ScoreRequest("S", "R", rewritten, (), ()) for rewritten in ("A", "B", "A")]
    table = collect_items(EmpathyReward(), requests)
    assert table.items == (("S", "A", "R"), ("S", "R", "A"), ("S", "B", "R"), ("S", "R", "B"))
    assert table.first_request == (0, 0, 1, 1)
    assert table.rows == ((0, 1), (2, 3), (0, 1))
    values = np.array([[1, 0, 0], [0.5, 0, 0], [2, 1, 0], [0.5, 0, 0]], np.float32)
    found = assemble(requests, [EmpathyReward()], {"empathy": table}, {"empathy": values})
    assert [breakdown.raw["empathy"] for breakdown in found] == pytest.approx([0.5, 2.5, 0.5])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "returned NoneType"),
        (np.zeros((2, 2), np.float32), "2 rows for the 3 items of rows 4 to 9"),
        ([[1.0, 2.0], None, [1.0, 2.0]], "NoneType instead of 2 numbers for row 7"),
        ([[1.0, 2.0], [1.0, None], [1.0, 2.0]], "NoneType instead of a number for row 7"),
        ([[1.0, 2.0], [1.0, 2.0], [1.0]], "1 numbers instead of 2 for row 9"),
        (np.zeros((3, 1), np.float32), "1 numbers instead of 2 for row 4"),
        (np.zeros(3, np.float32), "instead of 2 numbers for row 4"),
        (np.array([[0, 0], [0, 0], [0, np.nan]]), "not finite for row 9"),
        ([[1.0, 2.0], [float("inf"), 2.0], [1.0, 2.0]], "not finite for row 7"),
        ({"a": 1, "b": 2, "c": 3}, "returned dict"),
        ("abc", "returned str"),
    ],
)
def test_malformed_answers_name_scorer_and_row(values: object, message: str):
    with pytest.raises(PartnerError, match=message) as caught:
        check_rows(values, "toy", 2, [4, 7, 9])
    assert "'toy'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_well_formed_answers_become_float32():
    for values in ([[1, 2.5]], np.array([[1, 2.5]]), np.array([[1, 2.5]], np.float16)):
        found = check_rows(values, "toy", 2, [0])
        assert found.dtype == np.float32
        assert found.tolist() == [[1.0, 2.5]]


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 200), st.none() | st.integers(0, 50))
def test_length_batches_hold_every_index_once_within_the_budget(
    lengths: list[int], budget: int, most_padding: int | None
):
    batches = list(length_batches(lengths, budget, most_padding))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
        if most_padding is not None and len(batch) > 1:
            assert (len(batch) - 1) * (lengths[batch[-1]] - lengths[batch[-2]]) <= most_padding


def test_a_row_that_would_pad_the_others_begins_a_batch():
    lengths = [10, 200, 12, 11, 190]
    assert list(length_batches(lengths, 4096)) == [[0, 3, 2, 4, 1]]
    assert list(length_batches(lengths, 4096, 128)) == [[0, 3, 2], [4, 1]]


def test_item_order_keeps_equal_leading_texts_together():
    items = [("bb", "y"), ("a", "long"), ("bb", "x"), ("cc", "z"), ("bb", "yy")]
    assert sorted(items, key=item_order) == [("a", "long"), ("bb", "x"), ("bb", "y"), ("bb", "yy"), ("cc", "z")]
