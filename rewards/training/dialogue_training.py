"""Fine-tuning of the two dialogue models behind the reward for mutual information (PARTNER, section 4.3).

`p→(R|S)` and `p←(S|R)` start from one pretrained language model and are trained on the pairs of the corpus with the
prompts and tokens that the scorer uses; only the target's tokens count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from accelerate import Accelerator

from partner_rl.config.reward_schema import RewardTrainingConfig
from partner_rl.data.splits import select_pairs
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.progress import Progress, no_progress
from partner_rl.types import Example, PartnerError
from rewards.language_model import LanguageModel
from rewards.training.dialogue_pairs import Direction, conditions_and_targets, encode_rows, visible_pairs
from rewards.training.dialogue_scores import DialogueScores, dialogue_scores, score_chunks
from rewards.training.fine_tuning import FineTuner, FineTuning, FineTuningReport
from rewards.training.schedule import StepCounter


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogueReport(FineTuningReport):
    """What a fine-tuning of one direction did.

    Attributes:
        before: Test metrics of the pretrained model; None without test pairs of two seekers.
        after: Those of the fine-tuned one.
        train_seconds: Wall time of the training and the dev pairs.
    """

    direction: Direction
    before: DialogueScores | None
    after: DialogueScores | None
    train_pairs: int
    train_seconds: float
    test_seconds: float


def train_dialogue_model(
    direction: Direction,
    examples_train: Sequence[Example],
    examples_dev: Sequence[Example],
    examples_test: Sequence[Example],
    model_path: Path,
    settings: RewardTrainingConfig,
    max_tokens: int,
    output: Path,
    seed: int,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> DialogueReport:
    """Fine-tune one direction and write it as a plain model folder, adapters merged.

    Args:
        direction: Which model.
        examples_train: Pairs to train on.
        examples_dev: Pairs that choose the best pass; without any, the last one is kept.
        examples_test: Pairs to report on, before and after.
        model_path: Folder of the pretrained causal language model.
        settings: The keys `mi_*`.
        max_tokens: Each post is cut to this many tokens, as the scorer does (`rewards.max_tokens`).
        output: Receives the folder; the caller gives it its final name when it is whole.
        seed: Seed of the order, the adapters and the wrong partners; the process's own random stream is left alone.
        device: `cpu` or `cuda`.
        progress: Called with (steps done, all steps) in the main process; scoring a chunk of pairs is a step too.

    Raises:
        PartnerError: There is nothing to train on, the model cannot be used, or the loss is not finite.
    """
    accelerator = Accelerator(cpu=device == "cpu")
    examples_train = select_pairs(visible_pairs(examples_train), settings.mi_max_pairs, str(seed))
    examples_dev = select_pairs(visible_pairs(examples_dev), settings.mi_max_dev_pairs, str(seed))
    examples_test = select_pairs(visible_pairs(examples_test), settings.mi_max_test_pairs, str(seed))
    if not examples_train:
        raise PartnerError(f"no pairs to train the {direction} dialogue model on: give more data")
    language_model = LanguageModel(load_causal_lm(model_path).to(accelerator.device), load_tokenizer(model_path))
    train, dev = (
        encode_rows(language_model, direction, *conditions_and_targets(examples, direction), max_tokens)
        for examples in (examples_train, examples_dev)
    )
    seekers = [example.seeker_id for example in examples_train]
    tuner = FineTuner(language_model, train, dev, _fine_tuning(settings), seed, accelerator, seekers)
    testable = len({example.seeker_id for example in examples_test}) > 1
    total = tuner.work + 2 * testable * score_chunks(len(examples_test), accelerator)
    report = progress if accelerator.is_main_process else no_progress
    counter = StepCounter(report, total)

    def test() -> DialogueScores | None:
        if not testable:
            return None
        return dialogue_scores(language_model, direction, examples_test, max_tokens, seed, accelerator, counter.advance)

    times = [time.perf_counter()]
    before = test()
    times.append(time.perf_counter())
    tuned = tuner.run(counter.advance)
    times.append(time.perf_counter())
    after = test()
    times.append(time.perf_counter())
    report(total, total)  # an early stop leaves steps out
    tuner.save(output)
    testing, training, testing_again = (end - start for start, end in pairwise(times))
    return DialogueReport(
        **asdict(tuned),
        direction=direction,
        before=before,
        after=after,
        train_pairs=len(train),
        train_seconds=training,
        test_seconds=testing + testing_again,
    )


def _fine_tuning(settings: RewardTrainingConfig) -> FineTuning:
    return FineTuning(
        model="dialogue model",
        rate_key="reward_training.mi_learning_rate",
        epochs=settings.mi_epochs,
        learning_rate=settings.mi_learning_rate,
        batch_tokens=settings.mi_batch_tokens,
        lora=settings.mi_lora,
        patience=settings.mi_patience,
        layers=settings.mi_trained_layers,
        contrast=settings.mi_contrast,
        bfloat16=True,
    )
