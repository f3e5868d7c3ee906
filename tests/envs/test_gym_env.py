import json
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import envs
from envs import spaces
from envs.gym_env import EmpathicRewritingEnv
from envs.scoring import score_episodes
from envs.spaces import UnicodeText
from partner_rl.config.schema import EnvConfig
from partner_rl.types import Example, PartnerError, RewardBreakdown


def make(examples, scorer, weights=None, **env_settings) -> gymnasium.Env:
    settings = EnvConfig(**env_settings)
    return gymnasium.make("EmpathicRewriting-v0", examples=examples, scorer=scorer, settings=settings, weights=weights)


def test_importing_the_package_registers_the_environment(examples: list[Example], scorer) -> None:
    assert envs.__name__ == "envs"
    assert isinstance(make(examples, scorer).unwrapped, EmpathicRewritingEnv)


@pytest.mark.parametrize("env_settings", [{}, {"window": 1}, {"window": 6, "max_edits": 3}])
def test_check_env_passes_without_a_warning(examples: list[Example], scorer, env_settings: dict[str, int]) -> None:
    env = make(examples, scorer, **env_settings).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


def test_the_reward_comes_with_the_last_step(examples: list[Example], scorer) -> None:
    env = make(examples, scorer, window=2, max_edits=2)
    observation, info = env.reset(seed=1, options={"index": 0})
    assert info == {"response_id": "r0"}
    assert observation["span"] == ("Have you seen a doctor?", "")
    assert observation["position_mask"].tolist() == [1, 1, 0, 1, 0, 1]
    _, reward, terminated, truncated, info = env.step({"position": 0, "sentence": "I am sorry."})
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"invalid_position": False})
    assert scorer.calls == []
    _, reward, terminated, _, info = env.step({"position": np.int64(4), "sentence": "So sorry."})
    assert (reward, terminated) == (1.0 + 1.0, True)
    assert info["rewritten_response"] == "I am sorry. So sorry."
    assert info["breakdown"].raw == {"sorry": 2.0}
    assert [edit.replaced for edit in info["edits"]] == [None, "Have you seen a doctor?"]
    assert len(scorer.calls) == 1


def test_the_reward_is_weighed(examples: list[Example], scorer) -> None:
    env = make(examples, scorer, weights={"sorry": -0.5, "other": 7.0})
    env.reset(options={"index": 0})
    _, reward, _, _, info = env.step({"position": 0, "sentence": "I am sorry."})
    assert (reward, info["breakdown"].weighted) == (-0.5, {"sorry": -0.5})


def test_a_masked_position_is_taken_as_the_no_op(examples: list[Example], scorer) -> None:
    env = make(examples, scorer, window=4)
    env.reset(seed=0, options={"index": 0})
    _, _, terminated, _, info = env.step({"position": 4, "sentence": "I am sorry."})
    assert terminated
    assert info["invalid_position"]
    assert info["rewritten_response"] == "Have you seen a doctor?"


def test_actions_outside_the_space_are_errors(examples: list[Example], scorer) -> None:
    env = make(examples, scorer).unwrapped
    with pytest.raises(ValueError, match="call reset first"):
        env.step({"position": 0, "sentence": ""})
    env.reset(seed=0)
    for action in ({"position": 10, "sentence": ""}, {"position": 0, "sentence": None}, {"position": 0}):
        with pytest.raises(ValueError, match="the action is not in Dict"):
            env.step(action)


def test_missing_arguments_and_unknown_options_are_told(examples: list[Example], scorer) -> None:
    with pytest.raises(PartnerError, match=r"pass examples=\[Example"):
        gymnasium.make("EmpathicRewriting-v0", scorer=scorer)
    with pytest.raises(PartnerError, match="pass scorer="):
        gymnasium.make("EmpathicRewriting-v0", examples=examples)
    with pytest.raises(PartnerError, match="response huge: a post of 1000001 characters"):
        make([Example("s", "huge", "a" * 1_000_001, "b")], scorer)
    env = make(examples, scorer)
    with pytest.raises(PartnerError, match="does not know reset option 'indx'"):
        env.reset(options={"indx": 0})
    with pytest.raises(PartnerError, match=r"no example 99: give an index in 0…11"):
        env.reset(options={"index": 99})


def roll_out(env: gymnasium.Env, episodes: int) -> None:
    env.action_space.seed(0)
    for number in range(episodes):
        observation, _ = env.reset(seed=number)
        terminated = False
        while not terminated:
            assert env.observation_space.contains(observation)
            action = env.action_space.sample(mask={"position": observation["position_mask"], "sentence": None})
            observation, reward, terminated, truncated, info = env.step(action)
            assert not truncated
            assert not info["invalid_position"]
        assert reward == info["breakdown"].total


def test_a_random_policy_rolls_out_a_thousand_episodes(examples: list[Example], scorer) -> None:
    # A marker would also count what earlier tests have left open, which pytest tells after whichever test it is.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roll_out(make(examples, scorer, window=4, max_edits=2), 1000)
    assert len(scorer.calls) == 1000


@pytest.mark.real
def test_a_random_policy_rolls_out_a_thousand_episodes_on_real_posts(real_examples: list[Example], scorer) -> None:
    roll_out(make(real_examples, scorer), 1000)


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=20))
def test_unicode_text_contains_every_string_up_to_its_length(member: str) -> None:
    assert UnicodeText(20).contains(member)
    assert UnicodeText(3).contains(member) is (len(member) <= 3)


def test_unicode_text_samples_repeat_with_their_seed() -> None:
    first, second = UnicodeText(50, seed=3), UnicodeText(50, seed=3)
    samples = [first.sample() for _ in range(20)]
    assert samples == [second.sample() for _ in range(20)]
    assert all(first.contains(sample) for sample in samples)
    assert len(set(samples)) > 10
    assert len(UnicodeText(4, seed=0).sample()) <= 4
    assert first.from_jsonable(json.loads(json.dumps(first.to_jsonable(samples)))) == samples


def test_unicode_text_is_a_proper_space() -> None:
    space = UnicodeText(5)
    assert space == UnicodeText(5) != UnicodeText(6)
    assert repr(space) == "UnicodeText(5)"
    assert not space.is_np_flattenable
    assert not space.contains(5)
    with pytest.raises(ValueError, match="no set of characters to mask"):
        space.sample(mask=np.ones(3))
    with pytest.raises(ValueError, match="must not be negative"):
        UnicodeText(-1)
    assert spaces.observation_space(3) == spaces.observation_space(3)


def test_unusable_scores_are_errors() -> None:
    def silent(requests):
        return []

    def broken(requests):
        return [RewardBreakdown({"sorry": float("nan")}) for _ in requests]

    with pytest.raises(PartnerError, match="scorer silent returned 0 results for 1 requests"):
        score_episodes(silent, [None])
    with pytest.raises(PartnerError, match="scorer broken returned sorry nan for row 0 of 1"):
        score_episodes(broken, [None])
