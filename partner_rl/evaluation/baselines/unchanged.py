"""The baseline `unchanged`: every response stays as its supporter wrote it."""

from __future__ import annotations

from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites
from partner_rl.evaluation.systems import originals


def unchanged(context: BaselineContext) -> BaselineRewrites:
    """The originals, as if they were rewrites."""
    return BaselineRewrites(list(originals(context.pairs, context.config.env).requests), "the original responses")
