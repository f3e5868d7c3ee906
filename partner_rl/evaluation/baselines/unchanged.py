"""The baseline `unchanged`: every response stays as its supporter wrote it."""

from __future__ import annotations

from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites
from partner_rl.evaluation.systems import original_requests


def unchanged(context: BaselineContext) -> BaselineRewrites:
    """The originals, as if they were rewrites."""
    return BaselineRewrites(original_requests(context.pairs, context.config.env), "the original responses")
