"""`partner-rl rewards train mi`: the two dialogue models behind mutual information, and how good they are."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.commands.supervised import (
    DataOption,
    OverridesArgument,
    PresetOption,
    origin,
    training_config,
    training_splits,
    write_report,
)
from launch.console import out, progress
from launch.options import with_dry_run
from partner_rl.text.markdown import interval_text, markdown_table

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig
    from partner_rl.data.splits import Splits
    from rewards.training.dialogue_pairs import Direction
    from rewards.training.dialogue_scores import Share
    from rewards.training.dialogue_training import DialogueReport


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
    from partner_rl.storage.outputs import NewFolder

    config = training_config(preset, overrides, data)
    directions: tuple[Direction, ...] = ("forward", "backward")
    chosen = [name for name in directions if direction in (Directions.BOTH, name)]
    outputs = {NewFolder(output / name, _kind(name)): f"{_kind(name)} and report" for name in chosen}
    splits = training_splits(config, "models.reward_lm", outputs, dialogue_memory)
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
    from rewards.training.dialogue_training import train_dialogue_model

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
        settings = config.reward_training.model_dump(mode="json")
        metrics = {
            **asdict(result),
            "settings": {name: value for name, value in settings.items() if name.startswith("mi_")},
            "max_tokens": config.rewards.max_tokens,
            "base": Path(config.models.reward_lm).name,
            **origin(config),
            "processes": state.num_processes,
        }
        write_report(temporary, metrics, _card(config, result))
    out.print(_table(result), soft_wrap=True)
    out.print(f"{result.train_seconds:.0f} s of training; model and report.json in {output}", soft_wrap=True)


def _card(config: RunConfig, result: DialogueReport) -> str:
    from partner_rl.models.cards import model_card
    from rewards.mutual_information import BACKWARD_PROMPT, FORWARD_PROMPT

    settings, max_tokens = config.reward_training, config.rewards.max_tokens
    forward = result.direction == "forward"
    prompt = FORWARD_PROMPT if forward else BACKWARD_PROMPT
    after = prompt.after.replace("\n", "⏎")
    layers = f"the {settings.mi_trained_layers} highest layers" if settings.mi_trained_layers else "all layers"
    adapters = f"LoRA of rank {settings.mi_lora.rank} in {layers}, merged" if settings.mi_lora else layers
    text = f"""# {"Dialogue model p→(R|S)" if forward else "Backward dialogue model p←(S|R)"}

{Path(config.models.reward_lm).name} fine-tuned on pairs of a support seeker's post S and a peer supporter's response R;
one half of the reward for mutual information. Its score is the mean log-probability of a target token.

- Prompt: `{prompt.before} CONDITION{after} TARGET`, after the model's start token; each
  post cut to {max_tokens} tokens
- Data: {Path(config.data.source).name}, {result.train_pairs} pairs, split by seeker, seed {config.seed}
- Trained: {adapters}, learning rate {settings.mi_learning_rate:g}, {result.steps} steps of at most
  {settings.mi_batch_tokens} tokens, pass {result.best_epoch} kept

{_table(result)}

Wrong partners are drawn at random among the test pairs of other seekers; 95 % bootstrap intervals, seekers resampled.

Use it with `rewards.mutual_information.{result.direction}_checkpoint=FOLDER`. It imitates responses as they were
written, good and bad ones; it is there to score texts, not to talk to people in distress.
"""
    return model_card(text, "dialogue")


def _table(result: DialogueReport) -> str:
    """The test metrics before and after as a Markdown table."""
    before, after = result.before, result.after
    if before is None or after is None:
        return "No test pairs of two seekers to report on."

    def share(of: Share) -> str:
        return f"{of.value:.3f} ({interval_text(*of.interval)})"

    target, condition = ("R", "S") if result.direction == "forward" else ("S", "R")
    own = f"share of pairs with log p({target}|{condition}) > log p"
    return markdown_table(
        [f"{result.direction}, {after.pairs} test pairs", "before", "after"],
        [
            ("perplexity of the target", f"{before.perplexity:.1f}", f"{after.perplexity:.1f}"),
            (
                f"{own}({target}|{condition}')",
                share(before.beats_other_condition),
                share(after.beats_other_condition),
            ),
            (f"{own}({target}'|{condition})", share(before.beats_other_target), share(after.beats_other_target)),
            ("information in nats a token", f"{before.information:.3f}", f"{after.information:.3f}"),
        ],
    )
