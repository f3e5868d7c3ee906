"""`partner-rl rewards train empathy`: the empathy classifier, and how good it is on several splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig
    from partner_rl.data.splits import Splits
    from rewards.empathy_ensemble import EmpathyEnsemble
    from rewards.training.empathy_report import SplitReport


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
    from partner_rl.config.inputs import input_paths
    from partner_rl.storage.atomic import folder_when_whole
    from partner_rl.storage.outputs import NewFolder, check_outputs
    from rewards.empathy_model import KIND
    from rewards.training.empathy_report import as_json, model_card, table

    config = training_config(preset, overrides or [], data)
    check_outputs([NewFolder(output, KIND)], input_paths(config))
    first = training_splits(config, "models.encoder", {output: "empathy classifier and report"}, empathy_memory)
    if not any(example.labels for example in first.test):
        raise PartnerError(f"{data}: no test pair is labelled; empathy levels are needed to train and to judge")
    with folder_when_whole(output, KIND) as temporary:
        reports: list[SplitReport] = []
        for number in range(splits):
            split_config = config if number == 0 else _further_split(config, number)
            parts = first if number == 0 else _splits_of(split_config)
            ensemble, report = _train(split_config, parts, number, splits)
            reports.append(report)
            if number == 0:
                kept = ensemble
        if _is_main_process():
            # Only now are all figures of the model card known.
            kept.save(temporary)
            write_report(temporary, as_json(config, reports), model_card(config, reports))
    if _is_main_process():
        out.print(table(reports), soft_wrap=True)
        trainings = [training for report in reports for training in (report.training, *report.further_members)]
        seconds = sum(training.seconds for training in trainings)
        out.print(f"{seconds:.0f} s of training; classifier and report.json in {output}", soft_wrap=True)


def _train(config: RunConfig, parts: Splits, number: int, count: int) -> tuple[EmpathyEnsemble, SplitReport]:
    """Train on one split and judge the first classifier and baselines on its test pairs."""
    import numpy as np

    from launch.resources.device import device_of
    from partner_rl.models.sources import resolve
    from rewards.training.empathy import labelled_pairs
    from rewards.training.empathy_baselines import majority_levels, ngram_levels
    from rewards.training.empathy_members import train_members
    from rewards.training.empathy_report import SplitReport
    from rewards.training.empathy_scores import score_classifier, score_levels

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
    """The configuration of a split that gives figures and no checkpoint: another salt, one member."""
    data = config.data.model_copy(update={"split_salt": f"{config.data.split_salt}-{number + 1}"})
    training = config.reward_training.model_copy(update={"empathy_members": 1})
    return config.model_copy(update={"data": data, "reward_training": training})


def _splits_of(config: RunConfig) -> Any:
    from launch.training.phases import load_splits

    return load_splits(config)


def _is_main_process() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
