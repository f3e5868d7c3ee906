"""Sampling of whole groups on the rewriting environment.

RLlib's stock runner resets slots as they finish, which wastes about half of the generation on slots about to reset,
favours short episodes and breaks groups. This one resets all slots, computes only the live ones, and rolls every
episode to its end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from envs.vector_env import RewriteVectorEnv
from partner_rl.algorithm.trajectory import Rollout, SampledGroup, Step, Trajectory
from partner_rl.policy.actions import decode_action
from partner_rl.policy.generate import SampledAction, Sampling, sample_actions
from partner_rl.policy.model import Policy
from partner_rl.policy.module import RewriteModule
from partner_rl.policy.prompt import encode_prompt
from partner_rl.types import Example, RewriteState


class RewriteEnvRunner(SingleAgentEnvRunner):
    """Samples `K` trajectories of each example it is given."""

    module: RewriteModule | None

    def make_module(self) -> None:
        """Builds the module, unless the algorithm lends the learner's (no remote runners, no remote learners)."""
        if self.config.num_env_runners == 0 and self.config.num_learners == 0:
            self.module = None
        else:
            super().make_module()  # type: ignore[no-untyped-call]

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes weights and counters; a lent module already holds the learner's weights."""
        super().set_state(
            state if self.module is not None else {k: v for k, v in state.items() if k != COMPONENT_RL_MODULE}
        )

    def sample(  # type: ignore[override]
        self, *, examples: Sequence[Example], samples_per_group: int, seed: Sequence[int]
    ) -> Rollout:
        """Rolls `samples_per_group` episodes of each example to their end.

        Args:
            examples: `G` examples; `G · K` must be the environment's number of slots.
            samples_per_group: `K`.
            seed: Numbers that seed this call, such as (run seed, iteration, shard); the same ones sample the same.
        """
        assert self.module is not None
        assert self.env is not None
        policy = self.module.policy
        env = cast(RewriteVectorEnv, self.env.unwrapped)
        settings = policy.settings
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k)
        generator = torch.Generator(policy.device).manual_seed(_mix(seed))

        slots = [example for example in examples for _ in range(samples_per_group)]
        observations, _ = env.reset(options={"examples": slots})
        steps: list[list[Step]] = [[] for _ in slots]
        finished: dict[int, Trajectory] = {}
        generate_s = score_s = 0.0
        shared = samples_per_group
        while len(finished) < len(slots):
            live = {i: observation for i, observation in enumerate(observations) if observation is not None}
            start = time.perf_counter()
            sampled = _act(policy, list(live.values()), shared, sampling, generator)
            generate_s += time.perf_counter() - start
            actions: list[Any] = [None] * len(slots)
            for i, (step, action) in zip(live, sampled, strict=True):
                steps[i].append(step)
                actions[i] = action
            start = time.perf_counter()
            observations, _, terminated, _, infos = env.step(actions)
            score_s += time.perf_counter() - start
            for i in live:
                if terminated[i]:
                    finished[i] = Trajectory(tuple(steps[i]), infos["request"][i], infos["breakdown"][i])
            # After the first edit the samples of a group stand in different states.
            shared = 1
        groups = tuple(
            SampledGroup(example, tuple(finished[g * samples_per_group + k] for k in range(samples_per_group)))
            for g, example in enumerate(examples)
        )
        return Rollout(groups, generate_s, score_s)


def _act(
    policy: Policy, states: Sequence[RewriteState], shared: int, sampling: Sampling, generator: torch.Generator
) -> list[tuple[Step, Any]]:
    """An action for each state; each run of `shared` equal states is prefilled once."""
    distinct = states[::shared]
    samples = sample_actions(policy, distinct, shared, sampling, generator)
    result = []
    for state, group in zip(distinct, samples, strict=True):
        prompt = tuple(encode_prompt(policy.tokenizer, state, policy.settings))
        result += [(_step(prompt, state, sample), decode_action(policy, sample.action)) for sample in group]
    return result


def _step(prompt: tuple[int, ...], state: RewriteState, sample: SampledAction) -> Step:
    return Step(prompt, len(state.span), sample.action, sample.log_probs)


def _mix(seed: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> 1)
