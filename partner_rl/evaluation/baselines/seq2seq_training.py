"""Fine-tuning of the baseline `seq2seq`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from accelerate import Accelerator

from partner_rl.config.schema import BaselinesConfig
from partner_rl.evaluation.baselines.base_model import Cut
from partner_rl.evaluation.baselines.generation import LENGTHS
from partner_rl.evaluation.baselines.seq2seq import source_ids, target_ids
from partner_rl.models.loading import check_positions, load_causal_lm, load_tokenizer
from partner_rl.positions import PositionKind, decode_position
from partner_rl.progress import Progress, no_progress
from partner_rl.types import EditAction, Example, PartnerError, RewriteState
from rewards.language_model import LanguageModel
from rewards.training.dialogue_pairs import TargetRow
from rewards.training.fine_tuning import FineTuner, FineTuning, FineTuningReport
from rewards.training.schedule import StepCounter


@dataclass(frozen=True, slots=True)
class WholeRewrite:
    """A response and what it should become."""

    seeker_post: str
    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2SeqReport(FineTuningReport):
    """What a fine-tuning on a number of examples did, and its wall time."""

    examples: int
    seconds: float


def whole_rewrite(state: RewriteState, action: EditAction, window: int) -> WholeRewrite:
    """An example of the warm start as a pair of whole texts: the window before and after the edit."""
    position, span = decode_position(action.position, window), list(state.span)
    if position.kind is PositionKind.INSERT:
        span.insert(position.index, action.sentence)
    elif position.kind is PositionKind.REPLACE:
        span[position.index] = action.sentence
    return WholeRewrite(state.seeker_post, " ".join(state.span), " ".join(span))


def train_seq2seq(
    examples_train: Sequence[WholeRewrite],
    examples_dev: Sequence[WholeRewrite],
    model_path: Path,
    settings: BaselinesConfig,
    output: Path,
    seed: int,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> Seq2SeqReport:
    """Fine-tunes a language model to write the whole response, and writes it as a plain model folder.

    Args:
        examples_train: Examples to train on.
        examples_dev: Examples that choose the best pass; without any, the last one is kept.
        model_path: Folder of the pretrained causal language model.
        settings: The keys `max_post_tokens`, `max_new_tokens` and `seq2seq_*`.
        output: Receives the folder, from the main process; the caller gives it its final name.
        seed: Seed of order and adapters; the process's own random stream is left alone.
        device: `cpu` or `cuda`.
        progress: Called with (steps done, all steps) in the main process.

    Raises:
        PartnerError: There is nothing to train on, the model cannot be used, or the loss is not finite.
    """
    if not examples_train:
        raise PartnerError("no examples to train the sequence-to-sequence model on: give more data")
    start = time.perf_counter()
    accelerator = Accelerator(cpu=device == "cpu")
    language_model = LanguageModel(load_causal_lm(model_path).to(accelerator.device), load_tokenizer(model_path))
    train, dev = (_rows(language_model, examples, settings) for examples in (examples_train, examples_dev))
    longest = max(row.length for row in (*train, *dev))
    check_positions(language_model.tokenizer.name_or_path, language_model.model.config, longest, LENGTHS)
    tuning = FineTuning(
        model="sequence-to-sequence model",
        rate_key="baselines.seq2seq_learning_rate",
        epochs=settings.seq2seq_epochs,
        learning_rate=settings.seq2seq_learning_rate,
        batch_tokens=settings.seq2seq_batch_tokens,
        lora=settings.seq2seq_lora,
    )
    tuner = FineTuner(language_model, train, dev, tuning, seed, accelerator)
    tuned = tuner.run(StepCounter(progress if accelerator.is_main_process else no_progress, tuner.work).advance)
    tuner.save(output)
    return Seq2SeqReport(**asdict(tuned), examples=len(train), seconds=time.perf_counter() - start)


def _rows(
    language_model: LanguageModel, examples: Sequence[WholeRewrite], settings: BaselinesConfig
) -> list[TargetRow]:
    tokenizer, cut = language_model.tokenizer, Cut(language_model.tokenizer, settings.max_post_tokens)
    return [
        TargetRow(
            tuple(source_ids(tokenizer, cut(Example("", "", example.seeker_post, example.source)))),
            tuple(target_ids(tokenizer, example.target, settings.max_new_tokens)),
        )
        for example in examples
    ]
