"""What a warm start leaves beside the model: report, model card, metrics and a plot of the losses."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from launch.run_folder.reader import Row
from launch.tracking.curves import Panel, plot_curves
from partner_rl import metric_names as names
from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import select_pairs
from partner_rl.evaluation.component_scores import component_scores
from partner_rl.models.cards import CARD, model_card
from partner_rl.policy.generate import Sampling
from partner_rl.policy.model import Policy
from partner_rl.progress import Progress, no_progress
from partner_rl.rewriter import Rewrite, Rewriter
from partner_rl.storage.atomic import write_json, write_text
from partner_rl.text.markdown import markdown_table
from partner_rl.types import MECHANISMS, Example, PartnerError
from partner_rl.warmstart.history import DevScores, PositionBaselines, WarmStartReport
from rewards.empathy import NAME as EMPATHY
from rewards.empathy import EmpathyReward
from rewards.local import LocalRewards

LOW_EMPATHY: Final = 1
"""Responses of at most this empathy (0…6) are those that rewriting is for."""

UNLABELLED_DRAWS: Final = 4
"""Unlabelled responses that are scored for each one that is wanted, to find those of low empathy."""


_LOSSES: Final = Panel(
    "losses.png", "Warm start", "loss (nats)", (names.WARMSTART_LOSS, names.warmstart_dev("loss")), "optimizer step"
)


@dataclass(frozen=True, slots=True)
class EmpathyChange:
    """What greedy rewriting does to held-out responses of low empathy, by the classifier's levels (0…6).

    Means over the responses; `by_mechanism` holds the mean change of each mechanism's level, `unchanged` the share of
    responses that the policy left alone.
    """

    responses: int
    original: float
    rewritten: float
    change: float
    by_mechanism: dict[str, float]
    unchanged: float


@dataclass(frozen=True, slots=True)
class WarmStartResult:
    """Everything measured of a warm start.

    Attributes:
        training: The training and its held-out scores, which chose the best epoch.
        test: Scores on examples that chose nothing; None without any.
        test_baselines: What the position accuracy has to beat there.
        rewrites: Change in empathy; None without a classifier.
    """

    training: WarmStartReport
    test: DevScores | None
    test_baselines: PositionBaselines | None
    rewrites: EmpathyChange | None

    def as_json(self) -> dict[str, Any]:
        """The training's metrics at the top, as a run's `warm_start.json` has them, then the others."""
        return {
            **self.training.as_json(),
            "test": None if self.test is None else asdict(self.test),
            "test_baselines": None if self.test_baselines is None else asdict(self.test_baselines),
            "rewrites": None if self.rewrites is None else asdict(self.rewrites),
        }


def low_empathy_pairs(
    pairs: Sequence[Example], config: RunConfig, rewards: LocalRewards, seen_posts: Collection[str]
) -> list[Example]:
    """At most `evaluation.max_pairs` held-out pairs of low empathy by their labels, or else by the classifier.

    Pairs whose seeker posts were trained on are left out.

    Raises:
        PartnerError: There is none.
    """
    limit, salt = config.evaluation.max_pairs, config.data.split_salt
    fresh = [pair for pair in pairs if pair.seeker_post not in seen_posts]
    chosen = [pair for pair in fresh if pair.empathy is not None and pair.empathy <= LOW_EMPATHY]
    unlabelled = [pair for pair in fresh if pair.empathy is None]
    drawn = select_pairs(unlabelled, None if limit is None else UNLABELLED_DRAWS * limit, salt)
    levels = rewards.score_items(EMPATHY, [(pair.seeker_post, pair.response_post) for pair in drawn]).sum(1)
    chosen += [pair for pair, level in zip(drawn, levels.tolist(), strict=True) if level <= LOW_EMPATHY]
    if not chosen:
        raise PartnerError(
            f"no held-out response of {config.data.source} has an empathy of at most {LOW_EMPATHY}: "
            "give a larger data.source, or leave --rewards out"
        )
    return list(select_pairs(chosen, limit, salt))


def empathy_change(
    policy: Policy, pairs: Sequence[Example], config: RunConfig, rewards: LocalRewards, progress: Progress = no_progress
) -> EmpathyChange:
    """Rewrites the pairs greedily and measures their empathy before and after; pairs without visible text are left out.

    Raises:
        PartnerError: No pair has visible text.
    """
    rewriter = Rewriter(policy, config.env, Sampling.greedy(), batch_size=config.evaluation.batch_size)
    rewrites = [result for result in rewriter.rewrite(pairs, progress) if isinstance(result, Rewrite)]
    if not rewrites:
        raise PartnerError(f"no held-out response of {config.data.source} has visible text: give other data")
    count = len(rewrites)
    requests = [rewrite.request for rewrite in rewrites]
    scores = component_scores(rewards, [EmpathyReward()], requests)[EMPATHY]
    items = [(request.seeker_post, request.original_response) for request in requests]
    original = float(rewards.score_items(EMPATHY, items).sum()) / count
    change = sum(score.value for score in scores) / count
    return EmpathyChange(
        responses=count,
        original=original,
        rewritten=original + change,
        change=change,
        by_mechanism={name: sum(score.details[name] for score in scores) / count for name in MECHANISMS},
        unchanged=sum(not rewrite.edits for rewrite in rewrites) / count,
    )


def summary_table(outcome: WarmStartResult) -> Table:
    """The metrics to print."""
    table = Table("metric", "value", title="Warm start", title_justify="left")
    for name, value in _metrics(outcome):
        table.add_row(name, value)
    return table


def _metrics(outcome: WarmStartResult) -> list[tuple[str, str]]:
    report, rewrites = outcome.training, outcome.rewrites
    rows = [
        ("examples, steps", f"{report.examples}, {report.steps}"),
        ("best epoch", f"{report.best_epoch} of {len(report.epochs)}"),
        ("padding", f"{report.padding:.1%}"),
    ]
    if report.initial is not None and report.best is not None:
        rows.append(("held-out loss before → after", f"{report.initial.loss:.3f} → {report.best.loss:.3f}"))
    measured = (("held-out", report.best, report.baselines), ("test", outcome.test, outcome.test_baselines))
    for name, scores, baselines in measured:
        if scores is not None and baselines is not None:
            rows.append(
                (
                    f"{name} position accuracy",
                    f"{scores.position_accuracy:.2f} (chance {baselines.chance:.2f}, "
                    f"always “{baselines.majority_position}” {baselines.majority:.2f})",
                )
            )
    if outcome.test is not None:
        rows.append(("test loss", f"{outcome.test.loss:.3f}"))
    if rewrites is not None:
        rows.append(
            (
                f"change in empathy of {rewrites.responses} greedy rewrites",
                f"{rewrites.change:+.2f} ({rewrites.original:.2f} → {rewrites.rewritten:.2f}), "
                f"{rewrites.unchanged:.0%} left alone",
            )
        )
    return rows


def write_report(folder: Path, outcome: WarmStartResult, metrics: Sequence[Row], config: RunConfig) -> None:
    """Writes `warm_start.json`, `metrics.jsonl`, `losses.png` and the model card `README.md` into a folder."""
    write_json(folder / "warm_start.json", outcome.as_json())
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in metrics))
    plot_curves(metrics, folder, [_LOSSES])
    write_text(folder / CARD, _card(outcome, config))


def _card(outcome: WarmStartResult, config: RunConfig) -> str:
    """The model card; of local paths it gives the last part only."""
    settings, lora = config.warmstart, config.policy.lora
    text = f"""# Warm-started empathic rewriting policy

- Started from: {Path(config.models.policy).name}
- Data: {Path(settings.data or config.data.source).name}, seed {config.seed}
- Supervised training of position and sentence: {settings.epochs} epochs at most, {settings.batch_size} examples a step,
  {"every weight" if lora is None else f"adapters of rank {lora.rank}, merged"}

{markdown_table(("metric", "value"), _metrics(outcome))}

Reinforcement learning starts from it with `partner-rl train warmstart.checkpoint=FOLDER`. It reads a seeker's post and
up to {config.env.window} sentences of a response, and answers with a position token and a sentence. Its rewrites are
suggestions for a human supporter to read before they are sent; no metric above shows that a rewrite helps a person in
distress.
"""
    return model_card(text, "empathic-rewriting")
