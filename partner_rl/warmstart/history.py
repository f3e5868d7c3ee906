"""What a warm start has done so far: the metrics of its report and its training state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from partner_rl import metric_names as names
from partner_rl.positions import PositionKind, decode_position, position_mask
from partner_rl.warmstart.pairs import WarmStartExample


@dataclass(frozen=True, slots=True)
class DevScores:
    """How well the policy reproduces the held-out examples.

    Attributes:
        loss: `position_loss + token_loss`.
        position_loss: Mean negative log-likelihood of the position, in nats an example.
        token_loss: Mean negative log-likelihood of the sentence, in nats a token.
        position_accuracy: Share of examples whose likeliest valid position is the true one.
    """

    loss: float
    position_loss: float
    token_loss: float
    position_accuracy: float


@dataclass(frozen=True, slots=True)
class PositionBaselines:
    """What a position accuracy has to beat on the same held-out examples.

    Attributes:
        chance: Expected accuracy of a uniform choice among each example's valid positions.
        majority: Accuracy of always choosing the commonest position of the training examples.
    """

    chance: float
    majority: float
    majority_position: str


@dataclass(frozen=True, slots=True)
class EpochReport:
    """One pass: the mean training loss of its steps and the held-out scores after it (None without examples)."""

    epoch: int
    train_loss: float
    dev: DevScores | None


@dataclass
class History:
    """The training so far; it grows with each step.

    Attributes:
        losses: Training loss of each optimizer step.
        epochs: One report a finished pass, in order.
        best_epoch: The pass with the lowest held-out loss, from 1; 0 before the first.
        seconds: Wall-clock seconds of training and held-out scoring.
    """

    initial: DevScores | None = None
    losses: list[float] = field(default_factory=list)
    epochs: list[EpochReport] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The history as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> History:
        """What `as_json` returned, as a history again."""
        return cls(
            initial=_dev_scores(content["initial"]),
            losses=[float(loss) for loss in content["losses"]],
            epochs=[
                EpochReport(int(e["epoch"]), float(e["train_loss"]), _dev_scores(e["dev"])) for e in content["epochs"]
            ],
            best_epoch=int(content["best_epoch"]),
            seconds=float(content["seconds"]),
        )

    def add_epoch(self, report: EpochReport) -> bool:
        """Notes a finished pass; returns whether it is the best so far (the latest is, without held-out examples)."""
        best = self.epochs[self.best_epoch - 1].dev if self.best_epoch else None
        self.epochs.append(report)
        improved = best is None or report.dev is None or report.dev.loss < best.loss
        if improved:
            self.best_epoch = report.epoch
        return improved

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether the last `patience` passes brought no better held-out loss; None is endless patience."""
        return patience is not None and len(self.epochs) - self.best_epoch >= patience


def _metrics_row(step: int, metrics: Mapping[str, float], dev: DevScores | None) -> dict[str, float]:
    scores = {} if dev is None else {names.warmstart_dev(name): value for name, value in asdict(dev).items()}
    return {names.STEP: step, **metrics, **scores}


def _dev_scores(content: Mapping[str, Any] | None) -> DevScores | None:
    return None if content is None else DevScores(**content)


@dataclass(frozen=True, slots=True)
class WarmStartReport:
    """What a warm start did.

    Attributes:
        best_epoch: The pass whose weights the policy has, from 1; 0 when no pass was made.
        baselines: What the position accuracy has to beat; None without held-out or training examples.
        padding: Share of the computed tokens that were padding.
        seconds: Wall-clock seconds of training and held-out scoring.
    """

    initial: DevScores | None
    epochs: tuple[EpochReport, ...]
    best_epoch: int
    baselines: PositionBaselines | None
    examples: int
    dev_examples: int
    steps_per_epoch: int
    losses: tuple[float, ...]
    padding: float
    seconds: float

    @property
    def best(self) -> DevScores | None:
        """Held-out scores of the weights that the policy has."""
        return self.epochs[self.best_epoch - 1].dev if self.best_epoch else self.initial

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.losses)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON-able values; the steps' losses are in `metrics`."""
        content = asdict(self)
        del content["losses"]
        return {**content, "steps": self.steps}

    def metrics(self) -> list[dict[str, float]]:
        """Lines for `metrics.jsonl`: the held-out scores before training, each step's loss, and each pass's scores."""
        first = [] if self.initial is None else [_metrics_row(0, {names.WARMSTART_EPOCH: 0.0}, self.initial)]
        steps = [{names.STEP: step, names.WARMSTART_LOSS: loss} for step, loss in enumerate(self.losses, start=1)]
        passes = [
            _metrics_row(
                report.epoch * self.steps_per_epoch,
                {names.WARMSTART_EPOCH: float(report.epoch), names.WARMSTART_EPOCH_LOSS: report.train_loss},
                report.dev,
            )
            for report in self.epochs
        ]
        return sorted([*first, *steps, *passes], key=lambda row: row[names.STEP])


def position_baselines(
    train: Sequence[WarmStartExample], dev: Sequence[WarmStartExample], window: int
) -> PositionBaselines | None:
    """Chance and majority on the held-out examples; None when either set is empty."""
    if not train or not dev:
        return None
    counts = Counter(example.action.position for example in train)
    # The lowest number among equals, so that the order of the examples does not matter.
    majority = min(counts, key=lambda position: (-counts[position], position))
    chances = [1.0 / int(position_mask(len(example.state.span), window).sum()) for example in dev]
    hits = sum(example.action.position == majority for example in dev)
    decoded = decode_position(majority, window)
    name = str(decoded.kind) if decoded.kind is PositionKind.NOOP else f"{decoded.kind} {decoded.index}"
    return PositionBaselines(sum(chances) / len(dev), hits / len(dev), name)
