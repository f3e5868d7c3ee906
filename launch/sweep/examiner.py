"""The short evaluation of a trial: its policy's figures on held-out pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from launch import pipeline
from launch.clock import PhaseClock
from launch.run_folder import RunFolder
from launch.sweep.spec import METRICS
from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import Splits, select_pairs
from partner_rl.evaluation.system import TRAINED
from partner_rl.evaluation.systems import evaluate_system
from partner_rl.policy.generate import Sampling
from partner_rl.policy.model import Policy
from partner_rl.rewriter import Rewrite, Rewriter
from partner_rl.types import PartnerError
from rewards.pool import RewardClient


class Examiner:
    """Measures a trial's policy on held-out pairs, always the same ones."""

    def __init__(
        self,
        split: Literal["dev", "test"],
        config: RunConfig,
        run: RunFolder,
        splits: Splits,
        client: RewardClient,
        clock: PhaseClock,
    ) -> None:
        """Chooses the pairs and loads the sentence encoder."""
        held_out = pipeline.rewritable(splits.dev if split == "dev" else splits.test, config)
        self._pairs = select_pairs(held_out, config.evaluation.max_pairs, config.data.split_salt)
        self._config, self._clock = config, clock
        # A client of its own: the training's must not remember.
        self._client = RewardClient(client.spec)
        self._sources = pipeline.evaluation_sources(config, run, self._client)

    def figures(self, policy: Policy) -> dict[str, float]:
        """Metric → value of a policy; raises PartnerError when one is no number."""
        settings = self._config.evaluation
        sampling = Sampling(settings.temperature, settings.top_p, settings.top_k)
        with self._clock.phase("evaluation", "evaluation on held-out pairs"):
            rewriter = Rewriter(policy, self._config.env, sampling, self._config.seed, settings.batch_size)
            results = rewriter.rewrite(self._pairs)
            requests = [result.request for result in results if isinstance(result, Rewrite)]
            scores = evaluate_system(
                TRAINED, requests, self._client, self._sources.definitions, self._sources.embed
            ).as_json()
        return finite_figures(scores)


def finite_figures(scores: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a trial among a system's scores.

    Raises:
        PartnerError: One is infinite or NaN, which neither compares nor fits into JSON: the trial has failed.
    """
    figures: dict[str, float] = {metric: float(scores[metric]) for metric in METRICS}
    for metric, value in figures.items():
        if not math.isfinite(value):
            raise PartnerError(f"{metric} of the rewrites is {value}: the policy writes what cannot be measured")
    return figures
