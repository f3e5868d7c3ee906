"""Figures of an empathy classifier over splits: JSON, a table, the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from partner_rl.config.schema import RunConfig
from partner_rl.text.markdown import markdown_table
from partner_rl.types import MECHANISMS
from rewards.training.empathy import EmpathyReport
from rewards.training.empathy_scores import LevelScores, MechanismScores

_CARD: Final = """---
library_name: transformers
tags: [partner-rl, empathy, epitome]
---

# Empathy classifier

Levels (0 none, 1 weak, 2 strong) of three mechanisms of empathy in a peer supporter's response to a seeker's post:
emotional reactions, interpretations, explorations; with calibrated probabilities and the passages that support them.
Two encoders with attention (EPITOME, EMNLP 2020), one model for the three mechanisms, mixed with a regression on word
n-grams.

```python
from rewards.empathy_model import EmpathyClassifier

classifier = EmpathyClassifier.from_pretrained("FOLDER")
classifier.predict([("I failed the exam again.", "I am sorry. What happened?")])
```

- Encoder: {encoder}, all but its {frozen} lowest layers trained; best of {epochs} passes by dev loss
- Data: {data}, split by seeker ({train:.0%} train, {dev:.0%} dev), seed {seed}; this checkpoint is of the first split
- Share of the n-grams in the logits: {ngrams:.0%}
- Members of the ensemble: {members}; the figures below are of the first
- `level` is the largest logit, where rare levels weigh more; `probabilities` are calibrated on the dev pairs

Test pairs, {splits}: mean and, in brackets, lowest and highest split.

{table}

First split, with 95 % bootstrap intervals (seekers resampled):

{intervals}

It judges how a response reads, not whether it helps anybody. It was trained on short public posts in English and
should not be used to judge people.
"""


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One split.

    Attributes:
        training: How the training went; of an ensemble, that of the first member, whose figures these are.
        test: The classifier's test figures by mechanism.
        ngrams: Those of logistic regression on n-grams.
        majority: Those of the commonest level.
    """

    salt: str
    training: EmpathyReport
    further_members: tuple[EmpathyReport, ...]
    test: Mapping[str, MechanismScores]
    ngrams: Mapping[str, LevelScores]
    majority: Mapping[str, LevelScores]
    test_pairs: int


def as_json(config: RunConfig, reports: Sequence[SplitReport]) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "splits": [asdict(report) for report in reports],
        "settings": config.reward_training.model_dump(mode="json"),
        "encoder": Path(config.models.encoder).name,
        "data": Path(config.data.source).name,
        "seed": config.seed,
    }


def table(reports: Sequence[SplitReport]) -> str:
    """The test figures as a Markdown table: mean over the splits, and the lowest and highest one."""
    rows = []
    for name in MECHANISMS:
        scores = [report.test[name] for report in reports]
        figures = [
            [s.levels.accuracy for s in scores],
            [s.levels.macro_f1 for s in scores],
            [s.token_f1 for s in scores],
            [s.iou_f1 for s in scores],
            [s.ece for s in scores],
        ]
        rows.append((name.replace("_", " "), "classifier", *map(_spread, figures)))
        for system, levels in (
            ("n-grams, regression", [report.ngrams[name] for report in reports]),
            ("commonest level", [report.majority[name] for report in reports]),
        ):
            columns = [_spread([s.accuracy for s in levels]), _spread([s.macro_f1 for s in levels]), "–", "–", "–"]
            rows.append((name.replace("_", " "), system, *columns))
    return markdown_table(("mechanism", "system", "accuracy", "macro-F1", "token-F1", "IOU-F1", "ECE"), rows)


def model_card(config: RunConfig, reports: Sequence[SplitReport]) -> str:
    """The README of the checkpoint's folder."""
    settings = config.reward_training
    return _CARD.format(
        encoder=Path(config.models.encoder).name,
        frozen=settings.frozen_layers,
        epochs=settings.empathy_epochs,
        data=Path(config.data.source).name,
        train=config.data.train_fraction,
        dev=config.data.dev_fraction,
        seed=config.seed,
        ngrams=settings.empathy_ngram_weight,
        members=settings.empathy_members,
        splits=f"{len(reports)} splits" if len(reports) > 1 else "one split",
        table=table(reports),
        intervals=_intervals(reports[0]),
    )


def _intervals(report: SplitReport) -> str:
    rows = []
    for name, scores in report.test.items():
        levels = scores.levels
        accuracy = f"{levels.accuracy:.2f} ({_range(levels.accuracy_interval)})"
        macro_f1 = f"{levels.macro_f1:.2f} ({_range(levels.macro_f1_interval)})"
        rows.append((name.replace("_", " "), accuracy, macro_f1, ", ".join(map(str, levels.support))))
    return markdown_table(("mechanism", "accuracy", "macro-F1", "pairs of level 0, 1, 2"), rows)


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({_range((min(values), max(values)))})"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f}–{ends[1]:.2f}"
