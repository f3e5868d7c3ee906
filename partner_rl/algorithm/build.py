"""From the project's configuration to RLlib's: the only place that sets RLlib's keys."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from envs.vector_env import RewriteVectorEnv
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.algorithm.env_runner import RewriteEnvRunner
from partner_rl.algorithm.rllib_config import LoadExamples, RewriteConfig, Score
from partner_rl.config.schema import EnvConfig, RunConfig
from partner_rl.policy.module import RewriteModule

ENV_NAME = "EmpathicRewriting-v0"


def make_env(context: dict[str, Any]) -> RewriteVectorEnv:
    """Builds the vector environment from RLlib's environment context."""
    return RewriteVectorEnv(context["num_envs"], context["scorer"], EnvConfig.model_validate(context["settings"]))


def to_algorithm_config(
    config: RunConfig, *, policy_folder: str, score: Score, load_examples: LoadExamples
) -> RewriteConfig:
    """RLlib's configuration of a run.

    Args:
        config: The run's configuration.
        policy_folder: Folder of the policy that training starts from, which is also the KL reference.
        score: Scores a batch of rewrites; pickled to the env runners.
        load_examples: Loads the training examples in the driver.
    """
    settings = config.algorithm
    workers = max(1, settings.num_env_runners)
    tune.register_env(ENV_NAME, make_env)
    result = RewriteConfig(RewriteAlgorithm)
    result.environment(
        env=ENV_NAME,
        env_config={"scorer": score, "settings": config.env.model_dump()},
        normalize_actions=False,
        clip_actions=False,
        disable_env_checking=True,
    )
    result.env_runners(
        env_runner_cls=RewriteEnvRunner,
        num_env_runners=settings.num_env_runners,
        num_envs_per_env_runner=settings.groups_per_iteration * settings.samples_per_group // workers,
        num_gpus_per_env_runner=settings.num_gpus_per_env_runner,
        custom_resources_per_env_runner=config.resources.placement.share("env_runners"),
        gym_env_vectorize_mode="vector_entry_point",
        batch_mode="complete_episodes",
        create_local_env_runner=settings.num_env_runners == 0,
    )
    result.learners(
        num_learners=settings.num_learners,
        num_gpus_per_learner=settings.num_gpus_per_learner,
        custom_resources_per_learner=config.resources.placement.share("learners"),
    )
    result.training(lr=settings.learning_rate, grad_clip=settings.grad_clip)
    model = {
        "folder": policy_folder,
        "settings": config.policy.model_dump(),
        "window": config.env.window,
        "positions": config.env.positions,
    }
    result.rl_module(rl_module_spec=RLModuleSpec(module_class=RewriteModule, model_config=model))
    # RLlib adds the numbers of its workers.
    result.debugging(seed=config.seed % 2**31, log_level="ERROR")
    result.run = config
    result.load_examples = load_examples
    result.policy_folder = policy_folder
    return result
