"""`partner-rl rewards train mi`: the two dialogue models behind mutual information, and how good they are."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from launch.commands.supervised import (
    DataOption,
    OverridesArgument,
    PresetOption,
    interval_text,
    training_config,
    training_splits,
    write_report,
)
from launch.console import out, progress
from launch.options import with_dry_run
from partner_rl.text.markdown import markdown_table

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig
    from partner_rl.data.splits import Splits
    from rewards.training.dialogue_pairs import Direction
    from rewards.training.mutual_information import DialogueReport

_CARD: Final = """---
library_name: transformers
tags: [partner-rl, dialogue]
---

# {title}

{base} fine-tuned on pairs of a support seeker's post S and a peer supporter's response R; one half of the reward for
mutual information. Its score is the mean log-probability of a target token.

- Prompt: `{before} CONDITION{after} TARGET`, after the model's start token; each post cut to {max_tokens} tokens
- Data: {data}, {train} pairs, split by seeker, seed {seed}
- Trained: {trained}, learning rate {rate:g}, {steps} steps of at most {tokens} tokens, pass {best} kept

{table}

Wrong partners are drawn at random among the test pairs of other seekers; 95 % bootstrap intervals, seekers resampled.

Use it with `rewards.mutual_information.{direction}_checkpoint=FOLDER`. It imitates responses as they were written, good
and bad ones; it is there to score texts, not to talk to people in distress.
"""


class Directions(StrEnum):
    """Which dialogue models to train."""

    BOTH = "both"
    FORWARD = "forward"
    BACKWARD = "backward"


@with_dry_run
def command(
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives forward/ and backward/.")],
    overrides: OverridesArgument = None,
    direction: Annotated[
        Directions, typer.Option(help="forward: response given post; backward: post given response.")
    ] = Directions.BOTH,
    preset: PresetOption = "embedded",
) -> None:
    """Fine-tune the dialogue models of mutual information and report on held-out pairs.

    Example: `partner-rl rewards train mi --data sample --output models/mi`
    """
    from launch.resources.memory import dialogue_memory
    from partner_rl.config.inputs import input_paths
    from partner_rl.storage.outputs import NewFolder, check_outputs

    chosen: tuple[Direction, ...] = ("forward", "backward")
    if direction is Directions.FORWARD:
        chosen = ("forward",)
    elif direction is Directions.BACKWARD:
        chosen = ("backward",)
    config = training_config(preset, overrides or [], data)
    check_outputs([NewFolder(output / name, _kind(name)) for name in chosen], input_paths(config))
    writes = {output / name: f"{name} dialogue model and report" for name in chosen}
    splits = training_splits(config, "models.reward_lm", writes, dialogue_memory)
    for name in chosen:
        _train(name, config, splits, output / name)


def _kind(direction: Direction) -> str:
    """What the folder of a dialogue model says that it is."""
    return f"{direction} dialogue model"


def _train(direction: Direction, config: RunConfig, splits: Splits, output: Path) -> None:
    from accelerate import PartialState

    from launch.resources.device import device_of
    from partner_rl.models.sources import resolve
    from partner_rl.storage.atomic import folder_when_whole
    from rewards.training.mutual_information import train_dialogue_model

    folder = resolve(config.models.reward_lm, config.models.cache)
    device = device_of(config)
    state = PartialState(cpu=device == "cpu")
    title = f"Training the {direction} dialogue model"
    with folder_when_whole(output, _kind(direction)) as temporary, progress(title) as report:
        result = train_dialogue_model(
            direction,
            splits.train,
            splits.dev,
            splits.test,
            folder,
            config.reward_training,
            config.rewards.max_tokens,
            temporary,
            config.seed,
            device,
            report,
        )
        if not state.is_main_process:
            return
        figures = {**_as_json(config, result), "processes": state.num_processes}
        write_report(temporary, figures, _card(config, result))
    out.print(_table(result), soft_wrap=True)
    out.print(f"{result.train_seconds:.0f} s of training; model and report.json in {output}", soft_wrap=True)


def _as_json(config: RunConfig, result: DialogueReport) -> dict[str, object]:
    settings = config.reward_training.model_dump(mode="json")
    return {
        **asdict(result),
        "settings": {name: value for name, value in settings.items() if name.startswith("mi_")},
        "max_tokens": config.rewards.max_tokens,
        "base": Path(config.models.reward_lm).name,
        "data": Path(config.data.source).name,
        "split_salt": config.data.split_salt,
        "seed": config.seed,
    }


def _card(config: RunConfig, result: DialogueReport) -> str:
    from rewards.mutual_information import BACKWARD_PROMPT, FORWARD_PROMPT

    settings = config.reward_training
    forward = result.direction == "forward"
    prompt = FORWARD_PROMPT if forward else BACKWARD_PROMPT
    layers = f"the {settings.mi_trained_layers} highest layers" if settings.mi_trained_layers else "all layers"
    adapters = f"LoRA of rank {settings.mi_lora.rank} in {layers}, merged" if settings.mi_lora else layers
    return _CARD.format(
        title="Dialogue model p→(R|S)" if forward else "Backward dialogue model p←(S|R)",
        base=Path(config.models.reward_lm).name,
        before=prompt.before,
        after=prompt.after.replace("\n", "⏎"),
        max_tokens=config.rewards.max_tokens,
        data=Path(config.data.source).name,
        train=result.train_pairs,
        seed=config.seed,
        trained=adapters,
        rate=settings.mi_learning_rate,
        steps=result.steps,
        tokens=settings.mi_batch_tokens,
        best=result.best_epoch,
        table=_table(result),
        direction=result.direction,
    )


def _table(result: DialogueReport) -> str:
    """The test figures before and after as a Markdown table."""
    if result.before is None or result.after is None:
        return "No test pairs of two seekers to report on."
    target, condition = ("R", "S") if result.direction == "forward" else ("S", "R")
    rows: list[tuple[str, ...]] = [
        ("perplexity of the target", f"{result.before.perplexity:.1f}", f"{result.after.perplexity:.1f}")
    ]
    for name, before, after in (
        (
            f"log p({target}|{condition}) > log p({target}|{condition}')",
            result.before.beats_other_condition,
            result.after.beats_other_condition,
        ),
        (
            f"log p({target}|{condition}) > log p({target}'|{condition})",
            result.before.beats_other_target,
            result.after.beats_other_target,
        ),
    ):
        cells = [f"{share.value:.3f} ({interval_text(*share.interval)})" for share in (before, after)]
        rows.append((f"share of pairs with {name}", *cells))
    rows.append(("information in nats a token", f"{result.before.information:.3f}", f"{result.after.information:.3f}"))
    return markdown_table((f"{result.direction}, {result.after.pairs} test pairs", "before", "after"), rows)
