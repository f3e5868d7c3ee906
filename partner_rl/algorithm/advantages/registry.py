"""Name in the configuration → estimator."""

from __future__ import annotations

from partner_rl.algorithm.advantages.estimator import AdvantageEstimator
from partner_rl.algorithm.advantages.grpo import GroupRelative
from partner_rl.algorithm.advantages.reinforce import MovingAverageBaseline
from partner_rl.algorithm.advantages.rloo import LeaveOneOut
from partner_rl.algorithm.advantages.self_critical import SelfCritical
from partner_rl.config.schema import AlgorithmConfigSection


def build_estimator(settings: AlgorithmConfigSection) -> AdvantageEstimator:
    """The estimator that `algorithm.advantage` names."""
    match settings.advantage:
        case "rloo":
            return LeaveOneOut()
        case "reinforce":
            return MovingAverageBaseline(settings.baseline_window)
        case "self_critical":
            return SelfCritical()
        case "grpo":
            return GroupRelative()
