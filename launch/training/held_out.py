"""Policies on held-out pairs: what `evaluate`, the quickstart and the trials of sweeps do alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.console import progress
from launch.resources.device import device_of
from launch.run_folder.folder import RunFolder
from launch.training.phases import exported_policy, rewritable
from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import select_pairs
from partner_rl.evaluation.embedding import sentence_embedder
from partner_rl.evaluation.system_scores import LevelJudge, Sources
from partner_rl.models.sources import resolve
from partner_rl.policy.generate import Sampling
from partner_rl.policy.model import Policy
from partner_rl.progress import Progress, no_progress
from partner_rl.rewriter import Rewrite, Rewriter
from partner_rl.types import Example, PartnerError
from rewards.pool import RewardClient
from rewards.registry import all_components


def held_out_pairs(pairs: Sequence[Example], config: RunConfig) -> list[Example]:
    """At most `evaluation.max_pairs` of the pairs that training would rewrite."""
    return list(select_pairs(rewritable(pairs, config), config.evaluation.max_pairs, config.data.split_salt))


def evaluation_sources(
    config: RunConfig, run: RunFolder, client: RewardClient, judge: LevelJudge | None = None
) -> Sources:
    """The models that an evaluation measures with: those of a run, whatever they weigh in training."""
    definitions = {name: component.definition for name, component in all_components(config, run.path).items()}
    encoder = resolve(config.models.encoder, config.models.cache)
    embed = sentence_embedder(encoder, config.rewards.max_tokens, device_of(config))
    return Sources(client, definitions, embed, judge)


def sampling_of(config: RunConfig) -> Sampling:
    """How an evaluation draws positions and sentences."""
    settings = config.evaluation
    return Sampling(settings.temperature, settings.top_p, settings.top_k)


def rewriter_of(policy: Policy, config: RunConfig, sampling: Sampling) -> Rewriter:
    """Rewrites with a policy as its run's `env`, `seed` and `evaluation.batch_size` say."""
    return Rewriter(policy, config.env, sampling, config.seed, config.evaluation.batch_size)


def rewrite_all(rewriter: Rewriter, pairs: Sequence[Example], report: Progress = no_progress) -> list[Rewrite]:
    """A rewrite of each pair, in order.

    Raises:
        PartnerError: A pair has no visible text.
    """
    results = rewriter.rewrite(pairs, report)
    rewrites = [result for result in results if isinstance(result, Rewrite)]
    if len(rewrites) < len(results):
        raise PartnerError(f"{len(results) - len(rewrites)} held-out pairs have no visible text: remove them")
    return rewrites


def rewrite_with(
    name: str, folder: Path, pairs: Sequence[Example], config: RunConfig, sampling: Sampling
) -> list[Rewrite]:
    """Rewrites held-out pairs with the policy in a folder, called `name` on the terminal.

    Raises:
        PartnerError: The folder holds no policy of this window, or a pair has no visible text.
    """
    rewriter = rewriter_of(exported_policy(folder, config), config, sampling)
    with progress(f"Rewriting with {name}") as report:
        return rewrite_all(rewriter, pairs, report)
