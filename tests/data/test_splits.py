"""Splits go by seeker, are stable, and follow the salt."""

import pytest

from partner_rl.config.schema import DataConfig
from partner_rl.data.readers import read_examples
from partner_rl.data.splits import hash_fraction, select_pairs, split_examples, split_of
from partner_rl.types import Example

CORPUS = [
    Example(f"seeker{number // 3}", f"response{number}", f"Post {number // 3}", f"Response {number}")
    for number in range(3000)
]


def test_no_seeker_is_in_two_splits_and_nothing_is_lost():
    splits = split_examples(CORPUS, DataConfig())
    seekers = [{example.seeker_id for example in part} for part in (splits.train, splits.dev, splits.test)]
    assert not seekers[0] & seekers[1]
    assert not seekers[0] & seekers[2]
    assert not seekers[1] & seekers[2]
    assert sorted(map(id, (*splits.train, *splits.dev, *splits.test))) == sorted(map(id, CORPUS))


def test_fractions_are_followed():
    splits = split_examples(CORPUS, DataConfig(train_fraction=0.6, dev_fraction=0.1))
    assert abs(len(splits.train) / len(CORPUS) - 0.6) < 0.05
    assert abs(len(splits.dev) / len(CORPUS) - 0.1) < 0.03


def test_a_split_depends_on_the_seeker_alone():
    config = DataConfig()
    shuffled = split_examples(CORPUS[::-7], config)
    assert all(split_of(example.seeker_id, config) == "train" for example in shuffled.train)
    assert all(split_of(example.seeker_id, config) == "test" for example in shuffled.test)


def test_the_salt_changes_the_splits():
    first = split_examples(CORPUS, DataConfig())
    second = split_examples(CORPUS, DataConfig(split_salt="another"))
    assert {example.seeker_id for example in first.test} != {example.seeker_id for example in second.test}


def test_hashes_never_change():
    # The published figures depend on these splits.
    assert hash_fraction("partner", "65m92s") == pytest.approx(0.31556020605407664)
    assert 0 <= hash_fraction("") < 1


def test_selection_is_stable_nested_and_in_order():
    ten, twenty = select_pairs(CORPUS, 10, "a"), select_pairs(CORPUS, 20, "a")
    assert len(ten) == 10
    assert set(ten) < set(twenty)
    assert list(twenty) == [example for example in CORPUS if example in set(twenty)]
    assert set(select_pairs(CORPUS[::-1], 10, "a")) == set(ten)
    assert set(select_pairs(CORPUS, 10, "b")) != set(ten)
    assert select_pairs(CORPUS, None, "a") == tuple(CORPUS)
    assert select_pairs(CORPUS, 5000, "a") == tuple(CORPUS)


def test_the_sample_corpus_fills_every_split_without_a_shared_post():
    splits = split_examples(read_examples("sample").examples, DataConfig())
    posts = [{example.seeker_post for example in part} for part in (splits.train, splits.dev, splits.test)]
    assert all(posts)
    assert len(set.union(*posts)) == sum(map(len, posts))
