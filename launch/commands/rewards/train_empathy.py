"""`partner-rl rewards train empathy`: the empathy classifier, and how good it is on several splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.supervised import (
    DataOption,
    OutputOption,
    OverridesArgument,
    PresetOption,
    training_config,
    training_splits,
    write_report,
)
from launch.console import err, out, progress
from launch.options import with_dry_run
from partner_rl.text.markdown import interval_text, markdown_table
from partner_rl.types import MECHANISMS, PartnerError

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig
    from partner_rl.data.splits import Splits
    from rewards.empathy_ensemble import EmpathyEnsemble
    from rewards.training.empathy_scores import LevelScores, MechanismScores
    from rewards.training.empathy_training import EmpathyReport


@dataclass(frozen=True, slots=True)
class SplitReport:
    """One split: how the trainings went and test metrics by mechanism.

    Attributes:
        salt: `data.split_salt`.
        training: Of an ensemble, that of the first member, whose metrics these are.
        further_members: How that of the others went.
        test: The classifier's metrics.
        ngrams: Those of logistic regression on n-grams.
        majority: Those of the commonest level.
        test_pairs: Labelled test pairs.
    """

    salt: str
    training: EmpathyReport
    further_members: tuple[EmpathyReport, ...]
    test: Mapping[str, MechanismScores]
    ngrams: Mapping[str, LevelScores]
    majority: Mapping[str, LevelScores]
    test_pairs: int


@with_dry_run
def command(
    data: DataOption,
    output: OutputOption,
    overrides: OverridesArgument = None,
    preset: PresetOption = "embedded",
    splits: Annotated[
        int,
        typer.Option(
            "--splits", min=1, help="Train on this many splits of other salts, for the spread; the first one is kept."
        ),
    ] = 1,
) -> None:
    """Train the empathy classifier and report on held-out pairs, beside two baselines.

    Example: `partner-rl rewards train empathy --data data/epitome --output models/empathy --splits 3`
    """
    from launch.resources.memory import empathy_memory
    from launch.training.phases import load_splits
    from partner_rl.storage.atomic import folder_when_whole
    from partner_rl.storage.outputs import NewFolder
    from rewards.empathy_model import KIND

    config = training_config(preset, overrides, data)
    outputs = {NewFolder(output, KIND): "empathy classifier and report"}
    first = training_splits(config, "models.encoder", outputs, empathy_memory)
    if not any(example.labels for example in first.test):
        raise PartnerError(f"{data}: no test pair is labelled; empathy levels are needed to train and to judge")
    with folder_when_whole(output, KIND) as temporary:
        kept, report = _train(config, first, 0, splits)
        reports = [report]
        for number in range(1, splits):
            split_config = _further_split(config, number)
            reports.append(_train(split_config, load_splits(split_config), number, splits)[1])
        if _is_main_process():
            # Only now are all metrics of the model card known.
            kept.save(temporary)
            metrics = {
                "splits": [asdict(report) for report in reports],
                "settings": config.reward_training.model_dump(mode="json"),
                "encoder": Path(config.models.encoder).name,
                "data": Path(config.data.source).name,
                "seed": config.seed,
            }
            write_report(temporary, metrics, _card(config, reports))
    if _is_main_process():
        out.print(_table(reports), soft_wrap=True)
        trainings = [training for report in reports for training in (report.training, *report.further_members)]
        seconds = sum(training.seconds for training in trainings)
        out.print(f"{seconds:.0f} s of training; classifier and report.json in {output}", soft_wrap=True)


def _train(config: RunConfig, parts: Splits, number: int, count: int) -> tuple[EmpathyEnsemble, SplitReport]:
    """Train on one split and judge the first classifier and baselines on its test pairs."""
    import numpy as np

    from launch.resources.device import device_of
    from partner_rl.models.sources import resolve
    from rewards.training.empathy_baselines import majority_levels, ngram_levels
    from rewards.training.empathy_scores import score_classifier, score_levels
    from rewards.training.empathy_training import labelled_pairs, train_members

    encoder = resolve(config.models.encoder, config.models.cache)
    title = "Training the empathy classifier" + (f", split {number + 1} of {count}" if count > 1 else "")
    with progress(title) as report:
        ensemble, trainings = train_members(
            parts.train, parts.dev, encoder, config.reward_training, config.seed, device_of(config), report
        )
    err.print("Scoring held-out pairs and baselines")
    rng = np.random.default_rng(config.seed)
    train, test = labelled_pairs(parts.train, None, rng), labelled_pairs(parts.test, None, rng)
    return ensemble, SplitReport(
        salt=config.data.split_salt,
        training=trainings[0],
        further_members=trainings[1:],
        test=score_classifier(ensemble.members[0], test, config.seed),
        ngrams=score_levels(ngram_levels(train, test), test, config.seed),
        majority=score_levels(majority_levels(train, test), test, config.seed),
        test_pairs=len(test),
    )


def _further_split(config: RunConfig, number: int) -> RunConfig:
    """The configuration of a split that gives metrics and no checkpoint: another salt, one member."""
    data = config.data.model_copy(update={"split_salt": f"{config.data.split_salt}-{number + 1}"})
    training = config.reward_training.model_copy(update={"empathy_members": 1})
    return config.model_copy(update={"data": data, "reward_training": training})


def _is_main_process() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _card(config: RunConfig, reports: Sequence[SplitReport]) -> str:
    from partner_rl.models.cards import model_card

    settings, data = config.reward_training, config.data
    text = f"""# Empathy classifier

Levels (0 none, 1 weak, 2 strong) of three mechanisms of empathy in a peer supporter's response to a seeker's post:
emotional reactions, interpretations, explorations; with calibrated probabilities and the passages that support them.
Two encoders with attention (EPITOME, EMNLP 2020), one model for the three mechanisms, mixed with a regression on word
n-grams.

```python
from rewards.empathy_model import EmpathyClassifier

classifier = EmpathyClassifier.from_pretrained("FOLDER")
classifier.predict([("I failed the exam again.", "I am sorry. What happened?")])
```

- Encoder: {Path(config.models.encoder).name}, all but its {settings.frozen_layers} lowest layers trained; best of
  {settings.empathy_epochs} passes by dev loss
- Data: {Path(data.source).name}, split by seeker ({data.train_fraction:.0%} train, {data.dev_fraction:.0%} dev), seed
  {config.seed}; this checkpoint is of the first split
- Share of the n-grams in the logits: {settings.empathy_ngram_weight:.0%}
- Members of the ensemble: {settings.empathy_members}; the metrics below are of the first
- `level` is the largest logit, where rare levels weigh more; `probabilities` are calibrated on the dev pairs

Test pairs, {f"{len(reports)} splits" if len(reports) > 1 else "one split"}: mean and, in brackets, lowest and highest
split.

{_table(reports)}

First split, with 95 % bootstrap intervals (seekers resampled):

{_intervals(reports[0])}

It judges how a response reads, not whether it helps anybody. It was trained on short public posts in English and
should not be used to judge people.
"""
    return model_card(text, "empathy", "epitome")


def _table(reports: Sequence[SplitReport]) -> str:
    """The test metrics as a Markdown table: mean over the splits, and the lowest and highest one."""
    rows = []
    for name in MECHANISMS:
        mechanism, scores = name.replace("_", " "), [report.test[name] for report in reports]
        columns = (
            [s.levels.accuracy for s in scores],
            [s.levels.macro_f1 for s in scores],
            [s.token_f1 for s in scores],
            [s.iou_f1 for s in scores],
            [s.ece for s in scores],
        )
        rows.append([mechanism, "classifier", *map(_spread, columns)])
        for system, levels in (
            ("n-grams, regression", [report.ngrams[name] for report in reports]),
            ("commonest level", [report.majority[name] for report in reports]),
        ):
            shares = _spread([s.accuracy for s in levels]), _spread([s.macro_f1 for s in levels])
            rows.append([mechanism, system, *shares, "–", "–", "–"])
    return markdown_table(["mechanism", "system", "accuracy", "macro-F1", "token-F1", "IOU-F1", "ECE"], rows)


def _intervals(report: SplitReport) -> str:
    rows = [
        (
            name.replace("_", " "),
            f"{scores.levels.accuracy:.2f} ({interval_text(*scores.levels.accuracy_interval)})",
            f"{scores.levels.macro_f1:.2f} ({interval_text(*scores.levels.macro_f1_interval)})",
            ", ".join(map(str, scores.levels.support)),
        )
        for name, scores in report.test.items()
    ]
    return markdown_table(["mechanism", "accuracy", "macro-F1", "pairs of level 0, 1, 2"], rows)


def _spread(values: Sequence[float]) -> str:
    mean = f"{fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({interval_text(min(values), max(values))})"
