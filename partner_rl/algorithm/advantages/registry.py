"""Name in the configuration → estimator."""

from __future__ import annotations

from partner_rl.algorithm.advantages.estimator import AdvantageEstimator
from partner_rl.algorithm.advantages.reinforce import MovingAverageBaseline
from partner_rl.algorithm.advantages.rloo import LeaveOneOut
from partner_rl.config.schema import AlgorithmConfigSection


def build_estimator(settings: AlgorithmConfigSection) -> AdvantageEstimator:
    """The estimator that `algorithm.advantage` names."""
    match settings.advantage:
        case "rloo":
            return LeaveOneOut()
        case "reinforce":
            return MovingAverageBaseline(settings.baseline_window)
