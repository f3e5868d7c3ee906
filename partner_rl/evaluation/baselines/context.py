"""What a baseline gets to work with, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from partner_rl.config.schema import RunConfig
from partner_rl.progress import Progress, ShowProgress, show_no_progress
from partner_rl.types import Example, RewardBreakdown, ScoreRequest


class ScoresRewrites(Protocol):
    """The rewards; `rewards.pool.RewardClient` and `rewards.local.LocalRewards` are such."""

    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[RewardBreakdown]:
        """The reward of each rewrite."""
        ...


RewritesPairs = Callable[[Path, int, Progress], list[list[ScoreRequest]]]
"""(Folder of a policy, samples, progress) → that many rewrites of every pair of the context, in their order."""


@dataclass(frozen=True, slots=True)
class BaselineContext:
    """The pairs to rewrite, the same for every system, and what may be used for it.

    Attributes:
        config: The run's configuration; baselines read `env`, `evaluation` and `baselines`.
        base_model: Folder of the language model that the policy was made from.
        seq2seq: Folder that `train_seq2seq` wrote; None when there is none.
        client: The rewards that choose the best of several rewrites.
        seed: Decides everything that is drawn.
        progress: Opens a progress display for a description, such as `launch.console.progress`.
    """

    pairs: Sequence[Example]
    config: RunConfig
    base_model: Path
    warm_start: Path | None
    seq2seq: Path | None
    client: ScoresRewrites
    rewrite: RewritesPairs
    device: str = "cpu"
    seed: int = 0
    progress: ShowProgress = show_no_progress


@dataclass(frozen=True, slots=True)
class BaselineRewrites:
    """One rewritten response a pair, in their order; the note says what the baseline is and what was odd, no post."""

    requests: list[ScoreRequest]
    note: str
