"""From the project's configuration to RLlib's: the only place that sets RLlib's keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from envs.vector_env import RewriteVectorEnv
from partner_rl.algorithm.env_runner import RewriteEnvRunner
from partner_rl.algorithm.learner import RewriteLearner
from partner_rl.algorithm.losses import KlGradient, Surrogate
from partner_rl.algorithm.update_metrics import GAP_LIMITS
from partner_rl.config.schema import AlgorithmConfigSection, EnvConfig, RunConfig
from partner_rl.policy.module import RewriteModule
from partner_rl.types import Example, RewardBreakdown, ScoreRequest

if TYPE_CHECKING:
    from partner_rl.algorithm.algorithm import RewriteAlgorithm

ENV_NAME = "EmpathicRewriting-v0"

Score = Callable[[Sequence[ScoreRequest]], Sequence[RewardBreakdown]]
LoadExamples = Callable[[], Sequence[Example]]


class RewriteConfig(AlgorithmConfig):
    """RLlib's configuration with the keys of this algorithm; made by `to_algorithm_config`."""

    def __init__(self, algo_class: type[RewriteAlgorithm] | None = None) -> None:
        """Sets the defaults of the keys that RLlib does not know."""
        from partner_rl.algorithm.algorithm import RewriteAlgorithm

        super().__init__(algo_class=algo_class or RewriteAlgorithm)
        self.run: RunConfig = RunConfig()
        self.load_examples: LoadExamples = list
        self.policy_folder = ""
        self.kl_coeff = 0.0
        self.kl_gradient: KlGradient = "k2"
        self.gap_limits = GAP_LIMITS["float32"]
        self.surrogate: Surrogate | None = None
        self.position_entropy_coeff = 0.0
        self.weight_decay = 0.0
        self.micro_batch_tokens = 4096

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """RLlib's hook; `to_algorithm_config` describes the module whole."""
        return RLModuleSpec(module_class=RewriteModule)

    def get_default_learner_class(self) -> type[RewriteLearner]:
        """RLlib's hook."""
        return RewriteLearner

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        # The module is described by its own model config alone.
        return {}


def surrogate_of(settings: AlgorithmConfigSection) -> Surrogate | None:
    """How the update treats what it was not sampled by; None where every sample is of the policy that is updated."""
    if settings.clip_range is None and settings.steps_per_iteration == 1:
        return None
    high = settings.clip_range if settings.clip_range_high is None else settings.clip_range_high
    return Surrogate(settings.importance_ratio, settings.clip_range, high)


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
    result = RewriteConfig()
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
        learner_class=RewriteLearner,
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
    result.kl_coeff = settings.kl_coeff
    result.kl_gradient = settings.kl_gradient
    result.gap_limits = GAP_LIMITS[config.policy.dtype]
    result.surrogate = surrogate_of(settings)
    result.position_entropy_coeff = settings.position_entropy_coeff
    result.weight_decay = settings.weight_decay
    result.micro_batch_tokens = settings.micro_batch_tokens
    return result
