"""RLlib's configuration with what the workers of this algorithm need to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from partner_rl.algorithm.learner import RewriteLearner
from partner_rl.algorithm.rllib_internals import OwnModelConfig
from partner_rl.config.schema import RunConfig
from partner_rl.policy.module import RewriteModule
from partner_rl.types import Example, RewardBreakdown, ScoreRequest

Score = Callable[[Sequence[ScoreRequest]], Sequence[RewardBreakdown]]
LoadExamples = Callable[[], Sequence[Example]]


class RewriteConfig(OwnModelConfig):
    """RLlib's configuration of a run; made by `partner_rl.algorithm.build.to_algorithm_config`.

    Attributes:
        run: The run's configuration, which learners and env runners read.
        load_examples: Loads the training examples in the driver.
        policy_folder: Folder of the policy that training starts from.
    """

    def __init__(self, algo_class: type[Algorithm] | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.run = RunConfig()
        self.load_examples: LoadExamples = list
        self.policy_folder = ""

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """RLlib's hook; `to_algorithm_config` describes the module whole."""
        return RLModuleSpec(module_class=RewriteModule)

    def get_default_learner_class(self) -> type[RewriteLearner]:
        """RLlib's hook."""
        return RewriteLearner
