"""Seeds with a purpose."""

from hypothesis import given
from hypothesis import strategies as st

from partner_rl.algorithm.data_order import _order, examples_of_iteration
from partner_rl.seeds import generator_of, seed_of
from partner_rl.types import Example

numbers = st.lists(st.integers(0, 2**70), max_size=4).map(tuple)
purposes = st.sampled_from(["sampling", "rewriting", "data order"])


@given(purposes, numbers, purposes, numbers)
def test_another_purpose_or_other_numbers_are_another_seed(purpose, first, other, second):
    same = (purpose, first) == (other, second)
    assert (seed_of(purpose, *first) == seed_of(other, *second)) == same
    assert 0 <= seed_of(purpose, *first) < 2**63


def test_trailing_zeros_count():
    assert len({seed_of("sampling", 1), seed_of("sampling", 1, 0), seed_of("sampling", 1, 0, 0)}) == 3
    assert generator_of("a", 1).random() != generator_of("b", 1).random()


def test_an_epoch_takes_each_example_once_and_permutes_them_once():
    examples = [Example(f"s{i}", f"r{i}", "post", "response") for i in range(10)]
    _order.cache_clear()
    drawn = [example for iteration in range(5) for example in examples_of_iteration(examples, 4, iteration, 3)]
    assert (
        sorted(e.seeker_id for e in drawn[:10])
        == sorted(e.seeker_id for e in drawn[10:])
        == [f"s{i}" for i in range(10)]
    )
    assert drawn[:10] != drawn[10:]
    assert _order.cache_info().misses == 2
