"""The baseline `warm_start`: the policy as reinforcement learning found it."""

from __future__ import annotations

from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites


def warm_start(context: BaselineContext) -> BaselineRewrites:
    """One rewrite a pair, drawn as the evaluation draws the trained policy's.

    Raises:
        ValueError: The context has no warm start.
    """
    if context.warm_start is None:
        raise ValueError("there is no warm start")
    with context.progress("Rewriting with the warm start") as report:
        samples = context.rewrite(context.warm_start, 1, report)
    return BaselineRewrites([one for (one,) in samples], "the policy before reinforcement learning")
