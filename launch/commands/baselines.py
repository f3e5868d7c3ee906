"""`partner-rl baselines`: training of a baseline; and what `partner-rl evaluate --baselines` runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from launch.commands.supervised import (
    DataOption,
    OverridesArgument,
    PresetOption,
    training_config,
    training_splits,
    write_report,
)
from launch.console import out, progress
from launch.options import with_dry_run

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig
    from partner_rl.data.splits import Splits
    from partner_rl.evaluation.baselines.seq2seq_training import Seq2SeqReport, WholeRewrite

app = typer.Typer(help="Train the baselines that need training.", no_args_is_help=True)

SEQ2SEQ: Final = "seq2seq"
"""What the folder of a sequence-to-sequence model says that it is."""


# A group with one command would be that command.
@app.callback()
def _root() -> None:
    """Train the baselines that need training."""


@app.command("train-seq2seq")
@with_dry_run
def train_seq2seq_command(
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives the model.")],
    overrides: OverridesArgument = None,
    preset: PresetOption = "embedded",
) -> None:
    """Fine-tune the policy's base model to write whole responses, on the examples of the warm start.

    Example: `partner-rl baselines train-seq2seq --data sample --output models/seq2seq`
    """
    from accelerate import PartialState

    from launch.resources.device import device_of
    from launch.resources.memory import seq2seq_memory
    from partner_rl.evaluation.baselines.seq2seq_training import train_seq2seq
    from partner_rl.models.sources import resolve
    from partner_rl.storage.atomic import folder_when_whole
    from partner_rl.storage.outputs import NewFolder

    config = training_config(preset, overrides, data)
    outputs = {NewFolder(output, SEQ2SEQ): "sequence-to-sequence model and report"}
    splits = training_splits(config, "models.policy", outputs, seq2seq_memory)
    train, dev = _whole_rewrites(config, splits)
    base, device = resolve(config.models.policy, config.models.cache), device_of(config)
    state = PartialState(cpu=device == "cpu")
    with folder_when_whole(output, SEQ2SEQ) as temporary, progress("Training the sequence-to-sequence model") as report:
        result = train_seq2seq(train, dev, base, config.baselines, temporary, config.seed, device, report)
        if not state.is_main_process:
            return
        settings = config.baselines.model_dump(mode="json")
        metrics = {**asdict(result), "settings": settings, "data": Path(data).name, "seed": config.seed}
        write_report(temporary, metrics, _card(config, result))
    out.print(f"{result.seconds:.0f} s of training on {result.examples} examples; model in {output}", soft_wrap=True)


def _whole_rewrites(config: RunConfig, splits: Splits) -> tuple[list[WholeRewrite], list[WholeRewrite]]:
    """The warm start's examples of the train and the dev split, as whole texts."""
    from partner_rl.evaluation.baselines.seq2seq_training import whole_rewrite
    from partner_rl.warmstart.examples import make_examples, read_examples_of

    source = config.warmstart.data
    made = make_examples(config, splits) if source is None else read_examples_of(config, Path(source))
    train, dev = (
        [whole_rewrite(example.state, example.action, config.env.window) for example in part]
        for part in (made.train, made.dev)
    )
    return train, dev


def _card(config: RunConfig, result: Seq2SeqReport) -> str:
    from partner_rl.models.cards import model_card

    perplexity = "not measured"
    if result.dev_perplexity:
        perplexity = f"{result.dev_perplexity[0]:.1f} → {result.dev_perplexity[result.best_epoch]:.1f}"
    text = f"""# Sequence-to-sequence rewriting

{Path(config.models.policy).name} fine-tuned to write the whole kinder response; a baseline that policies are compared
with.

- Prompt: `Post: POST⏎Reply: RESPONSE⏎Kinder reply:`, each post cut to {config.baselines.max_post_tokens} tokens
- Data: {Path(config.data.source).name}, {result.examples} examples of the warm start (a missing empathic sentence is to
  be brought back), seed {config.seed}
- Trained: {result.steps} steps, learning rate {config.baselines.seq2seq_learning_rate:g}, pass {result.best_epoch}
  kept; held-out perplexity of a token {perplexity}

Use it with `evaluation.seq2seq=FOLDER`. It imitates responses as they were written and is no counsellor.
"""
    return model_card(text, "text-generation")
