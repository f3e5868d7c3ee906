import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList

from envs.gym_env import EmpathicRewritingEnv
from envs.vector_env import RewriteVectorEnv
from partner_rl.config.schema import EnvConfig
from partner_rl.positions import noop_position, position_mask
from partner_rl.types import EditAction, Example, PartnerError, RewriteState


def draw_actions(generator, observations: list[RewriteState | None], window: int, random_action):
    return [
        None if state is None else random_action(generator, position_mask(len(state.span), window))
        for state in observations
    ]


@pytest.mark.parametrize("settings", [EnvConfig(), EnvConfig(window=2, max_edits=3)])
def test_slots_behave_like_single_environments(examples: list[Example], scorer, random_action, settings) -> None:
    generator = np.random.default_rng(0)
    vector = RewriteVectorEnv(len(examples), scorer, settings)
    singles = [EmpathicRewritingEnv([example], scorer, settings) for example in examples]
    for _ in range(20):
        observations, _ = vector.reset(options={"examples": examples})
        for single in singles:
            single.reset()
        terminated = np.zeros(len(examples), dtype=bool)
        while not terminated.all():
            finished = terminated
            actions = draw_actions(generator, observations, settings.window, random_action)
            observations, rewards, terminated, truncated, infos = vector.step(actions)
            assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float32, np.bool_, np.bool_)
            assert not truncated.any()
            for slot in np.flatnonzero(~finished):
                action = {"position": actions[slot].position, "sentence": actions[slot].sentence}
                seen, reward, done, _, info = singles[slot].step(action)
                assert done == terminated[slot]
                if done:
                    assert observations[slot] is None
                    assert infos["breakdown"][slot].weighed({"sorry": 1.0}) == info["breakdown"]
                    assert reward == info["breakdown"].total
                    for key in ("request", "edits"):
                        assert infos[key][slot] == info[key]
                    assert all(infos[f"_{key}"][slot] for key in ("breakdown", "request", "edits"))
                else:
                    assert tuple(filter(None, seen["span"])) == observations[slot].span
            # The algorithm weighs the scores.
            assert not rewards.any()


def test_one_scorer_call_for_all_slots_that_finish_in_a_step(examples: list[Example], scorer) -> None:
    env = RewriteVectorEnv(3, scorer, EnvConfig(window=2))
    env.reset(options={"examples": [examples[0], examples[6], examples[1]]})
    noop = EditAction(noop_position(2))
    observations, rewards, terminated, _, infos = env.step([EditAction(0, "I am sorry."), noop, EditAction(3, "Sorry")])
    assert [len(call) for call in scorer.calls] == [2]
    assert terminated.tolist() == [True, False, True]
    assert [found and found.raw["sorry"] for found in infos["breakdown"]] == [1.0, None, 0.0]
    assert not rewards.any()
    assert observations[0] is None
    assert observations[1].span == ("And a third one!", "- eat")
    assert [request and request.rewritten_response for request in infos["request"]] == [
        "I am sorry. Have you seen a doctor?",
        None,
        "Sorry",
    ]
    _, _, terminated, _, infos = env.step([None, noop, None])
    assert (infos, terminated.tolist(), len(scorer.calls)) == ({}, [True, False, True], 1)
    _, _, terminated, _, infos = env.step([None, noop, None])
    assert infos["_breakdown"].tolist() == [False, True, False]
    assert terminated.all()
    assert len(env.episodes) == 3


def test_it_is_made_through_make_vec_as_rllib_does(examples: list[Example], scorer) -> None:
    spec = gymnasium.envs.registration.EnvSpec(
        "RewriteVectorTest-v0",
        entry_point=lambda: None,
        vector_entry_point=lambda num_envs: RewriteVectorEnv(num_envs, scorer, EnvConfig()),
    )
    env = DictInfoToList(gymnasium.make_vec(spec, num_envs=2, vectorization_mode="vector_entry_point"))
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert env.single_action_space["position"].n == 10
    assert env.action_space["position"].shape == (2,)
    env.reset(options={"examples": examples[:2]})
    _, _, _, _, infos = env.step([EditAction(0, "I am sorry."), EditAction(0, "")])
    assert [info["request"].rewritten_response for info in infos] == ["I am sorry. Have you seen a doctor?", "ok"]


def test_examples_must_match_the_slots(examples: list[Example], scorer) -> None:
    env = RewriteVectorEnv(2, scorer, EnvConfig())
    with pytest.raises(ValueError, match="call reset first"):
        env.step([None, None])
    with pytest.raises(PartnerError, match="given no examples"):
        env.reset()
    with pytest.raises(PartnerError, match="given 3 examples for 2 slots"):
        env.reset(options={"examples": examples[:3]})
    with pytest.raises(ValueError, match="num_envs must be at least 1"):
        RewriteVectorEnv(0, scorer, EnvConfig())


def test_actions_must_match_the_live_slots(examples: list[Example], scorer) -> None:
    env = RewriteVectorEnv(2, scorer, EnvConfig(window=4))
    env.reset(options={"examples": [examples[0], examples[-1]]})
    noop = EditAction(noop_position(4))
    with pytest.raises(ValueError, match="1 actions for 2 slots"):
        env.step([noop])
    with pytest.raises(ValueError, match="slot 1 is live"):
        env.step([noop, None])
    env.step([noop, noop])
    with pytest.raises(ValueError, match="slot 0 has finished"):
        env.step([noop, noop])


def test_a_failed_step_changes_nothing(examples: list[Example], scorer) -> None:
    env = RewriteVectorEnv(2, lambda requests: scorer(requests)[:1], EnvConfig())
    env.reset(options={"examples": examples[:2]})
    before = env.episodes
    with pytest.raises(PartnerError, match="scorer <lambda> returned 1 results for 2 requests"):
        env.step([EditAction(0, "I am sorry."), EditAction(0, "I am sorry.")])
    assert env.episodes == before
