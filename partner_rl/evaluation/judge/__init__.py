"""The held-out judge: levels of empathy by a model that no policy is trained against."""

from partner_rl.evaluation.judge.judge import Judge, check_judge, load_judge

__all__ = ["Judge", "check_judge", "load_judge"]
