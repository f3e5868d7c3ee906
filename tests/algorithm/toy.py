"""A toy task for the RL loop: tiny random model, short posts, a reward that counts a letter."""

from collections.abc import Sequence
from pathlib import Path

from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.build import to_algorithm_config
from partner_rl.algorithm.learner import RewriteLearner
from partner_rl.algorithm.workers import on_each_learner
from partner_rl.config.schema import AlgorithmConfigSection, EnvConfig, PolicyConfig, RunConfig
from partner_rl.config.section import LoraSection
from partner_rl.models.sources import resolve
from partner_rl.types import Example, RewardBreakdown, ScoreRequest


def count_letter(requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
    """One point for each `e` in the generated sentences."""
    counts = [float(sum(c.lower().count("e") for c in request.candidates)) for request in requests]
    return [RewardBreakdown({"empathy": count}) for count in counts]


def count_letter_beside_a_constant(requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
    """The same as one of two components that the configuration has weights for; the other one is always the same."""
    return [RewardBreakdown({**b.raw, "fluency": 0.5}) for b in count_letter(requests)]


def examples() -> list[Example]:
    """Twelve pairs with one to four sentences."""
    return [
        Example(f"s{i}", f"r{i}", f"I feel low today, number {i}", " ".join(["Go outside."] * (1 + i % 4)))
        for i in range(12)
    ]


def toy_config(*, lora: bool = False, max_edits: int = 1, max_new_tokens: int = 6, **algorithm: object) -> RunConfig:
    """A configuration of seconds."""
    settings = {"groups_per_iteration": 4, "samples_per_group": 4, "learning_rate": 1e-2, "micro_batch_tokens": 256}
    return RunConfig(
        seed=3,
        env=EnvConfig(window=3, max_edits=max_edits),
        policy=PolicyConfig(
            max_new_tokens=max_new_tokens, unfinished="keep", lora=LoraSection(rank=4) if lora else None
        ),
        algorithm=AlgorithmConfigSection(**settings | algorithm),
    )


def build_toy(config: RunConfig, score=count_letter, folder: Path | None = None) -> RewriteAlgorithm:
    """The toy task's algorithm; the caller stops it."""
    policy = folder or resolve("random:llama", None)
    return to_algorithm_config(config, policy_folder=str(policy), score=score, load_examples=examples).build_algo()


def local_learner(algorithm: RewriteAlgorithm) -> RewriteLearner:
    """The learner in the driver."""
    return on_each_learner(algorithm.learner_group, lambda learner: learner)[0]
