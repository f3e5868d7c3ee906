"""`partner-rl rewards train coherence`: the classifier of sentence coherence, and how good it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from launch.commands.supervised import (
    DataOption,
    OutputOption,
    OverridesArgument,
    PresetOption,
    origin,
    training_config,
    training_splits,
    write_report,
)
from launch.console import err, out, progress
from launch.options import with_dry_run
from partner_rl.text.markdown import interval_text, markdown_table

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig
    from rewards.training.coherence_scores import CoherenceTestReport
    from rewards.training.coherence_training import CoherenceReport


@with_dry_run
def command(
    data: DataOption,
    output: OutputOption,
    overrides: OverridesArgument = None,
    preset: PresetOption = "embedded",
) -> None:
    """Train the coherence classifier and report on held-out pairs of sentences.

    Example: `partner-rl rewards train coherence --data sample --output models/coherence`
    """
    from envs import text
    from launch.resources.device import device_of
    from launch.resources.memory import coherence_memory
    from partner_rl.models.sources import resolve
    from partner_rl.storage.atomic import folder_when_whole
    from partner_rl.storage.outputs import NewFolder
    from rewards.coherence_model import KIND, CoherenceClassifier
    from rewards.training.coherence_scores import held_out_report
    from rewards.training.coherence_training import train_coherence

    config = training_config(preset, overrides, data)
    outputs = {NewFolder(output, KIND): "coherence classifier and report"}
    splits = training_splits(config, "models.encoder", outputs, coherence_memory)
    settings, device = config.reward_training, device_of(config)
    encoder = resolve(config.models.encoder, config.models.cache)

    def sentences(post: str) -> tuple[str, ...]:
        return text.split(post).sentences

    with folder_when_whole(output, KIND) as temporary:
        with progress("Training the coherence classifier") as report:
            trained = train_coherence(
                splits.train, splits.dev, encoder, settings, temporary, config.seed, sentences, device, report
            )
        classifier = CoherenceClassifier.load(temporary, settings.max_tokens, device)
        err.print("Scoring held-out pairs and baselines")
        test = held_out_report(classifier, splits.dev, splits.test, encoder, settings, config.seed, sentences, device)
        metrics = {
            "test": asdict(test),
            "training": asdict(trained),
            "settings": settings.model_dump(mode="json"),
            "encoder": Path(config.models.encoder).name,
            **origin(config),
        }
        write_report(temporary, metrics, _card(config, trained, test))
    out.print(_table(test), soft_wrap=True)
    out.print(f"{trained.seconds:.0f} s of training; classifier and report.json in {output}", soft_wrap=True)


def _card(config: RunConfig, trained: CoherenceReport, test: CoherenceTestReport) -> str:
    from partner_rl.models.cards import model_card

    settings, tested = config.reward_training, test.classifier
    text = f"""# Sentence coherence classifier

Probability that two sentences belong to one response to a support seeker's post. It compares the vectors of a sentence
encoder and how the sentences are written; the order of the two does not matter.

- Encoder: {Path(config.models.encoder).name}, all but its {settings.coherence_frozen_layers} lowest layers trained
  for {settings.coherence_epochs} passes
- Data: {Path(config.data.source).name}, {trained.train_responses} responses to train on, split by seeker,
  seed {config.seed}
- Negatives: {settings.coherence_hard_negatives:.0%} of their weight on sentences of responses about the same topic
  (other responses to the seeker, or to the {settings.coherence_neighbours} most similar seeker posts), the rest on
  sentences of random other seekers' responses

Held-out test pairs: {tested.pairs} of one response from {tested.responses} responses, and as many negatives of each
kind. Area under the ROC curve with its 95 % bootstrap interval (responses resampled), and accuracy.

{_table(test)}

Use it with `rewards.coherence.checkpoint=FOLDER`. A score says how alike two sentences are in topic and manner; it does
not say that a response is a good one.
"""
    return model_card(text, "sentence-coherence")


def _table(test: CoherenceTestReport) -> str:
    """The test metrics as a Markdown table."""
    rows = []
    for name, scores in (
        ("this classifier", test.classifier),
        ("cosine of the pretrained encoder's vectors", test.embedding_cosine),
        ("cosine of TF-IDF vectors", test.bag_of_words),
    ):
        kinds = (scores.easy, scores.hard, scores.mix)
        areas = [f"{kind.auc:.3f} ({interval_text(*kind.auc_interval)})" for kind in kinds]
        rows.append([name, *areas, *(f"{kind.accuracy:.3f}" for kind in kinds)])
    areas = [f"AUC, {negatives}" for negatives in ("easy negatives", "hard negatives", "both")]
    return markdown_table(["scores", *areas, "accuracy, easy", "hard", "both"], rows)
