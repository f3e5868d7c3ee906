"""Sampling of whole groups on the rewriting environment, while the rewards of the groups before are computed.

RLlib's stock runner resets slots as they finish, which wastes about half of the generation on slots about to reset,
favours short episodes and breaks groups. This one resets all slots, computes only the live ones, and rolls every
episode to its end.

The groups are cut into chunks that take turns: while the environment steps of one chunk wait for the rewards in a
thread, the policy generates for the next one. Turns, batches and random numbers do not depend on who is faster.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from envs.vector_env import Actions, RewriteVectorEnv, VectorStep
from partner_rl.algorithm.trajectory import Rollout, SampledGroup, Step, Trajectory
from partner_rl.policy.actions import decode_action
from partner_rl.policy.generate import PromptRows, Sampling, sample_prompts
from partner_rl.policy.model import Policy
from partner_rl.policy.module import RewriteModule
from partner_rl.policy.prompt import encode_prompt
from partner_rl.seeds import seed_of
from partner_rl.types import Example, PartnerError

SYNCS = "syncs"
"""Key of the number of weight syncs so far, beside the weights in an env runner's state."""


class RewriteEnvRunner(SingleAgentEnvRunner):
    """Samples `K` trajectories of each example it is given."""

    module: RewriteModule | None
    # The weight sync whose weights the module holds; 0 before the first one, as after a restart by Ray.
    _syncs = 0

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
        self._syncs = state.get(SYNCS, self._syncs)

    def sample_in_step(self, syncs: int, arguments: dict[str, Any]) -> Rollout | PartnerError | None:
        """Samples as `sample` does, on behalf of a driver in another process.

        Returns:
            None when this runner missed that sync, because Ray has restarted it; an error that is meant for the user
            as a value, because RLlib would take an exception for a broken runner and restart it.
        """
        if syncs != self._syncs:
            return None
        try:
            return self.sample(**arguments)
        except PartnerError as error:
            return error

    def sample(  # type: ignore[override]
        self, *, examples: Sequence[Example], samples_per_group: int, seed: Sequence[int], greedy_baseline: bool = False
    ) -> Rollout:
        """Rolls `samples_per_group` episodes of each example to their end.

        Args:
            examples: `G` examples.
            samples_per_group: `K`.
            seed: Numbers that seed this call: of run, iteration, shard and attempt; the same ones sample the same.
            greedy_baseline: Also roll the episode of the likeliest edits of each example; the others stay the same.
        """
        assert self.module is not None
        assert self.env is not None
        policy = self.module.policy
        env = cast(RewriteVectorEnv, self.env.unwrapped)
        size = cast(Any, self.config).run.algorithm.groups_per_chunk or len(examples)
        return roll(
            policy,
            [
                Chunk(
                    env,
                    examples[start : start + size],
                    samples_per_group,
                    greedy_baseline,
                    torch.Generator(policy.device).manual_seed(seed_of("sampling", *seed, number)),
                )
                for number, start in enumerate(range(0, len(examples), size))
            ],
        )


class Chunk:
    """Groups whose episodes are generated together, between two turns of the policy."""

    def __init__(
        self,
        env: RewriteVectorEnv,
        examples: Sequence[Example],
        samples: int,
        greedy: bool,
        generator: torch.Generator,
    ) -> None:
        """Start the episodes: for each example `samples` drawn ones, then the greedy one if it is asked for."""
        self.generator = generator
        self._examples = examples
        self._samples, self._greedy = samples, greedy
        self._rows = samples + greedy
        slots = [example for example in examples for _ in range(self._rows)]
        self.env = env.with_slots(len(slots))
        self._observations, _ = self.env.reset(options={"examples": slots})
        self._steps: list[list[Step]] = [[] for _ in slots]
        self._finished: dict[int, Trajectory] = {}

    @property
    def is_over(self) -> bool:
        """All episodes have ended."""
        return len(self._finished) == len(self._steps)

    def act(self, policy: Policy, sampling: Sampling) -> Actions:
        """The policy's next edit of each live episode, None for the others."""
        asked = list(self._asked(policy))
        prompts = [prompt for _, prompt in asked]
        actions: list[Any] = [None] * len(self._steps)
        for (slot, prompt), drawn in zip(asked, sample_prompts(policy, prompts, sampling, self.generator), strict=True):
            for row, sample in enumerate(drawn, start=slot):
                self._steps[row].append(
                    Step(prompt.prompt, prompt.num_sentences, sample.action, sample.logprobs, sample.kept)
                )
                actions[row] = decode_action(policy, sample.action)
        return actions

    def _asked(self, policy: Policy) -> Iterator[tuple[int, PromptRows]]:
        """The first slot and the prompt of each state: before the first edit a group's slots share theirs."""
        is_first = not self._steps[0]
        for slot in range(0, len(self._steps), self._rows if is_first else 1):
            state = self._observations[slot]
            if state is None:
                continue
            prompt, sentences = tuple(encode_prompt(policy.tokenizer, state, policy.settings)), len(state.span)
            is_greedy = self._greedy and slot % self._rows == self._samples
            if is_first:
                yield slot, PromptRows(prompt, sentences, self._samples, self._greedy)
            else:
                yield slot, PromptRows(prompt, sentences, 0 if is_greedy else 1, is_greedy)

    def take(self, step: VectorStep) -> None:
        """Take in what the environment answered."""
        self._observations, _, terminated, _, infos = step
        for slot, steps in enumerate(self._steps):
            if terminated[slot] and slot not in self._finished:
                self._finished[slot] = Trajectory(tuple(steps), infos["request"][slot], infos["breakdown"][slot])

    def groups(self) -> Iterator[SampledGroup]:
        """The finished groups, in the order of the examples."""
        for g, example in enumerate(self._examples):
            rows = tuple(self._finished[g * self._rows + row] for row in range(self._rows))
            yield SampledGroup(example, rows[: self._samples], rows[self._samples] if self._greedy else None)


@dataclass(slots=True)
class _Seconds:
    """Seconds in which the policy computed, waited, and the environment stepped (which is to wait for the rewards)."""

    generate: float = 0.0
    wait: float = 0.0
    env: float = 0.0


def roll(policy: Policy, chunks: Sequence[Chunk]) -> Rollout:
    """Rolls all chunks to their ends, one turn each in a circle; one thread makes all environment steps, in order."""
    settings = policy.settings
    sampling = Sampling(settings.temperature, settings.top_p, settings.top_k)
    spent = _Seconds()
    turns: deque[tuple[Chunk, Future[tuple[VectorStep, float]] | None]] = deque((chunk, None) for chunk in chunks)
    with _env_thread() as thread:
        while turns:
            chunk, pending = turns.popleft()
            if pending is not None:
                started = time.perf_counter()
                step, seconds = pending.result()
                spent.wait += time.perf_counter() - started
                spent.env += seconds
                chunk.take(step)
                if chunk.is_over:
                    continue
            started = time.perf_counter()
            actions = chunk.act(policy, sampling)
            spent.generate += time.perf_counter() - started
            turns.append((chunk, thread.submit(_timed_step, chunk.env, actions)))
    groups = tuple(group for chunk in chunks for group in chunk.groups())
    return Rollout(groups, spent.generate, spent.wait, max(0.0, spent.env - spent.wait))


@contextmanager
def _env_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread for environment steps; after an error nothing that still waits in it is begun."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="env")
    try:
        yield thread
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


def _timed_step(env: RewriteVectorEnv, actions: Actions) -> tuple[VectorStep, float]:
    started = time.perf_counter()
    step = env.step(actions)
    return step, time.perf_counter() - started
