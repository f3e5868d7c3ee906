"""The four scorers in their actor pools, for measurements: with a run's models, or with untrained classifiers.

How long a classifier computes does not depend on its weights, so that nothing need be trained to measure it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from launch.console import progress
from launch.resources.plan import Plan
from launch.run_folder.folder import RunFolder
from partner_rl.config.schema import RunConfig
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.sources import resolve
from rewards.coherence_model import CoherenceClassifier, CoherenceModel
from rewards.empathy_model import EmpathyClassifier, EmpathyModel
from rewards.pool import RewardPools, create_pools
from rewards.registry import active_components, trained_folder


@contextmanager
def scorer_folder(run: Path | None, config: RunConfig) -> Iterator[Path]:
    """A run folder's path whose classifiers are there: the run's own, or a temporary one with untrained classifiers.

    Args:
        run: The run whose reward models to use.
        config: The configuration, which may name checkpoints itself.

    Raises:
        PartnerError: There is no such run, or the encoder cannot be loaded.
    """
    if run is not None:
        yield RunFolder.open(run)[0].path
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        _write_untrained(config, folder)
        yield folder


def _write_untrained(config: RunConfig, folder: Path) -> None:
    cache = config.models.cache_dir
    encoder = resolve(config.models.encoder, None if cache is None else Path(cache).expanduser())
    settings = config.reward_training
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.rewards.empathy.checkpoint is None:
            tokens = settings.empathy_max_tokens
            model = EmpathyModel.on_encoder(load_encoder(encoder), tokens)
            EmpathyClassifier(model, load_tokenizer(encoder), tokens).save(trained_folder(folder, "empathy"))
        if config.rewards.coherence.checkpoint is None:
            tokens = config.rewards.max_tokens
            pairs = CoherenceModel(load_encoder(encoder))
            CoherenceClassifier(pairs, load_tokenizer(encoder), tokens).save(trained_folder(folder, "coherence"))


@contextmanager
def scorer_pools(config: RunConfig, folder: Path, plan: Plan) -> Iterator[RewardPools]:
    """The pools of all components that weigh something, on the running Ray, for the time of a block.

    Args:
        config: Replicas, CPUs and GPUs of the actors.
        folder: The run folder with the classifiers.
        plan: Threads of the actors.
    """
    group = plan.reward_group("empathy")
    threads = 1 if group is None else group.threads
    components = active_components(config, folder)
    with progress("Starting the reward actors") as report:
        pools = create_pools(components, config.rewards, f"bench-{os.getpid()}-{os.urandom(3).hex()}", threads, report)
    with pools:
        yield pools
