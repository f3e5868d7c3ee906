"""Our side: the algorithm that `partner-rl train` runs, on sentences of a fixed length."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from benchmarks.work import Workload
from benchmarks.workload import fixed_length
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.build import to_algorithm_config
from partner_rl.algorithm.rllib_config import Score
from partner_rl.config.schema import RunConfig
from partner_rl.policy.module import RewriteModule
from partner_rl.types import Example, PartnerError

PHASES = ("generate", "score", "update", "sync")


class FixedLengthModule(RewriteModule):
    """The policy's module with a vocabulary that ends no sentence early."""

    def setup(self) -> None:
        """Loads the policy and replaces its vocabulary."""
        super().setup()
        self.policy = replace(self.policy, vocabulary=fixed_length(self.policy.vocabulary))


@dataclass(frozen=True, slots=True)
class IterationFigures:
    """What an iteration did and how long it took.

    Attributes:
        episodes: Episodes.
        prompt_tokens: Tokens of the prompts, each counted for every episode that it belongs to.
        new_tokens: Sampled tokens of sentences; the position is not one of them.
        seconds: Seconds in `generate`, `score`, `update`, `sync`, and `iteration` for all of it.
        prompts: Tokens of each distinct prompt.
    """

    episodes: int
    prompt_tokens: int
    new_tokens: int
    seconds: dict[str, float]
    prompts: tuple[int, ...]


def on_gpu(config: RunConfig) -> RunConfig:
    """The configuration with the driver's learner on the GPU, if that is the run's device."""
    if config.device != "cuda" or config.algorithm.num_learners:
        return config
    # Reserves nothing: it tells RLlib where the driver's learner computes.
    algorithm = config.algorithm.model_copy(update={"num_gpus_per_learner": 1.0})
    return config.model_copy(update={"algorithm": algorithm})


def build_algorithm(config: RunConfig, folder: str, examples: Sequence[Example], score: Score) -> RewriteAlgorithm:
    """The algorithm on sentences of a fixed length; the caller stops it."""
    # RLlib advises about the choice of its API stack, which is not the user's.
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    settings = to_algorithm_config(config, policy_folder=folder, score=score, load_examples=lambda: examples)
    spec = settings._rl_module_spec
    assert isinstance(spec, RLModuleSpec)
    settings.rl_module(rl_module_spec=replace(spec, module_class=FixedLengthModule))
    return cast(RewriteAlgorithm, settings.build_algo())


def run_iteration(algorithm: RewriteAlgorithm, work: Workload) -> IterationFigures:
    """One iteration, timed from outside, so that what RLlib does around the training step counts too.

    Raises:
        PartnerError: It sampled another number of tokens than the workload asks for.
    """
    start = time.perf_counter()
    algorithm.train()  # type: ignore[no-untyped-call]
    seconds = {**algorithm.last.seconds, "iteration": time.perf_counter() - start}
    steps: list[Any] = [step for g in algorithm.last.groups for t in g.trajectories for step in t.steps]
    lengths = {len(step.action.tokens) for step in steps}
    if len(steps) != work.episodes or lengths != {work.new_tokens}:
        raise PartnerError(
            f"our side took {len(steps)} steps with sentences of {sorted(lengths)} tokens, "
            f"not {work.episodes} with {work.new_tokens}: the comparison would not be fair"
        )
    return IterationFigures(
        episodes=len(steps),
        prompt_tokens=sum(len(step.prompt) for step in steps),
        new_tokens=sum(len(step.action.tokens) for step in steps),
        seconds=seconds,
        prompts=tuple(len(group.trajectories[0].steps[0].prompt) for group in algorithm.last.groups),
    )
