"""Training groups survive the way through RLlib's columns and are split within the token budget."""

from hypothesis import given
from hypothesis import strategies as st
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.torch_utils import convert_to_torch_tensor

from partner_rl.algorithm.batch import GROUPS, TrainingGroup, micro_batches, to_rllib
from partner_rl.policy.actions import ActionTokens
from partner_rl.policy.logprobs import PromptGroup

ids = st.lists(st.integers(0, 500), max_size=6).map(tuple)
finite = st.floats(-5, 5, width=32)


@st.composite
def groups(draw, truncated=False):
    actions = draw(st.lists(st.builds(ActionTokens, st.integers(0, 7), ids), min_size=1, max_size=4))
    kept = tuple(tuple(draw(ids.filter(bool)) for _ in a.tokens) for a in actions) if truncated else None
    return TrainingGroup(
        PromptGroup(draw(ids), draw(st.integers(0, 3)), tuple(actions), kept),
        tuple(draw(finite) for _ in actions),
        tuple(tuple(draw(finite) for _ in range(1 + len(a.tokens))) for a in actions),
    )


@given(st.booleans().flatmap(lambda truncated: st.lists(groups(truncated), min_size=1, max_size=4)))
def test_columns_lose_nothing(items):
    batch = to_rllib(items, episodes=7)
    assert batch.env_steps() == 7
    columns = convert_to_torch_tensor(batch.policy_batches[DEFAULT_MODULE_ID])
    assert list(columns[GROUPS]) == items


@given(st.lists(groups(), min_size=1, max_size=8), st.integers(1, 60))
def test_micro_batches_hold_every_group_within_the_budget(items, budget):
    parts = micro_batches(items, budget)
    assert sorted(map(repr, (g for part in parts for g in part))) == sorted(map(repr, items))
    for part in parts:
        width = max(len(g.group.prompt) for g in part)
        width += max(sum(max(1, len(a.tokens)) for a in g.group.actions) for g in part)
        assert len(part) == 1 or len(part) * width <= budget
