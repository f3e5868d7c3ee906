"""`partner-rl warmstart`: supervised training of position and sentence, in one process or under `accelerate launch`.

While it trains, everything lies in `OUTPUT.training`; `OUTPUT` appears when it is whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launch.console import err, out, progress, typed_command
from launch.interrupt import stop_on_request
from launch.options import with_dry_run
from launch.run_folder.lock import alone
from launch.run_folder.record import CONFIG_FILE, has_begun
from partner_rl.config.inputs import NamedInput, input_paths
from partner_rl.config.load import Assignment, load_config, save_config
from partner_rl.config.schema import RunConfig
from partner_rl.storage.atomic import folder_when_whole
from partner_rl.storage.outputs import NewFolder, check_outputs
from partner_rl.types import Example, PartnerError

if TYPE_CHECKING:
    from accelerate import PartialState

    from launch.training.warmstart_report import WarmStartResult
    from partner_rl.data.splits import Splits
    from partner_rl.policy.model import Policy
    from partner_rl.warmstart.examples import WarmStartExamples
    from partner_rl.warmstart.history import WarmStartReport
    from rewards.local import LocalRewards

logger = logging.getLogger(__name__)

KIND = "policy"


@with_dry_run
def command(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives the policy.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE, such as warmstart.epochs=3.", show_default=False)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")
    ] = "embedded",
    data: Annotated[
        Path | None,
        typer.Option(help="Examples of `partner-rl data warmstart-pairs`, instead of data.source.", show_default=False),
    ] = None,
    rewards: Annotated[
        Path | None,
        typer.Option(help="Run or folder with an empathy classifier, to measure rewrites with.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished training of --output.")] = False,
) -> None:
    """Train a policy to place and write empathic sentences, as the start of reinforcement learning.

    Example: `partner-rl warmstart --preset embedded --output warm warmstart.epochs=3`
    """
    work = work_folder(output)
    if output.is_dir() and any(output.iterdir()):
        raise PartnerError(f"{output} exists: choose another --output")
    if resume:
        from launch.training.resuming import refuse_preset

        refuse_preset(context)
        if data or rewards:
            raise PartnerError("--resume goes on with the training's own inputs: name another place of one by its key")
        config = _to_resume(output, overrides or [])
    elif has_begun(work):
        raise PartnerError(f"{work} is an unfinished training: go on with `{_resume_command(output)}`, or remove it")
    else:
        config = load_config(preset, [*(overrides or []), *_given(data, rewards)])
    check_outputs([NewFolder(output, KIND)], input_paths(config))
    from launch.preflight.check_request import warm_start_request
    from launch.preflight.command_plan import begin, training_plan
    from launch.resources.memory import warm_start_memory

    writes = {output: "warm-started policy and report", work: "state while it trains"}
    begin(training_plan(config, warm_start_request(config), writes, warm_start_memory))
    warm_start(config, output)


def work_folder(output: Path) -> Path:
    """Where the training's state lies until the output is whole."""
    return output.parent / f"{output.name}.training"


def _resume_command(output: Path) -> str:
    return typed_command("warmstart", "--output", output, "--resume")


def _to_resume(output: Path, overrides: Sequence[str]) -> RunConfig:
    """The configuration that an unfinished training goes on with.

    Raises:
        PartnerError: There is none, a key has changed that may not, or an input is gone.
    """
    from launch.run_folder.fingerprints import check_present
    from launch.training.resuming import configuration_to_resume

    work = work_folder(output)
    if not (work / CONFIG_FILE).is_file():
        raise PartnerError(f"there is no unfinished training at {work}: start one without --resume")
    config, _ = configuration_to_resume(work / CONFIG_FILE, overrides)
    check_present(_inputs(config), _resume_command(output))
    return config


def _inputs(config: RunConfig) -> tuple[NamedInput, ...]:
    """What a warm start reads."""
    from launch.preflight.check_request import warm_start_request
    from launch.run_folder.fingerprints import inputs_of

    return inputs_of(config, warm_start_request(config).keys)


def _record_inputs(config: RunConfig, work: Path, splits: Splits | None) -> None:
    """Compares the inputs with those that the training began with, and notes what it goes on with.

    Raises:
        InputError: An input holds something else than at the beginning.
    """
    from launch.run_folder.fingerprints import fingerprints_at_start

    noted = fingerprints_at_start(work, config).followed_by(config, _inputs(config), splits)
    save_config(config, work / CONFIG_FILE)
    noted.save(work)


def _given(data: Path | None, rewards: Path | None) -> Iterator[Assignment]:
    """The options as assignments."""
    if data is not None:
        yield Assignment("warmstart.data", data)
    if rewards is not None:
        inside = rewards / "rewards" / "empathy"
        yield Assignment("rewards.empathy.checkpoint", inside if inside.is_dir() else rewards)


def warm_start(config: RunConfig, output: Path) -> None:
    """Trains, measures and writes the output folder; Ctrl-C leaves a state to resume from."""
    state = _process(config)
    with _main_process_talks(state):
        _train_and_write(config, output, state)


def _train_and_write(config: RunConfig, output: Path, state: PartialState) -> None:
    import torch

    from launch.training.warmstart_report import summary_table, write_report
    from partner_rl.policy.pretrained import save_policy
    from partner_rl.warmstart.train import train_warmstart

    work = work_folder(output)
    examples, splits = _examples(config)
    held_out = _held_out(config, examples, splits) if splits is not None and state.is_main_process else None
    torch.manual_seed(config.seed)
    policy = _policy(config, state)
    state.wait_for_everyone()
    with (
        _kept(config, work, splits) if state.is_main_process else contextlib.nullcontext(),
        _resumable(output),
        progress("Warm start") as report,
        stop_on_request("finishing this step and saving") as stop,
    ):
        training = train_warmstart(
            policy, examples.train, examples.dev, config.warmstart, work, config.seed, report, stop
        )
    outcome = _measure(config, policy, examples, training, held_out)
    if state.is_main_process:
        with folder_when_whole(output, KIND) as temporary:
            save_policy(policy, temporary)
            write_report(temporary, outcome, training.metrics(), config)
            save_config(config, temporary / CONFIG_FILE)
        shutil.rmtree(work)
        out.print(summary_table(outcome))
        out.print(f"policy: {output}; start from it with warmstart.checkpoint={output}", markup=False, soft_wrap=True)


def _process(config: RunConfig) -> PartialState:
    """This process among those that `accelerate launch` started."""
    import torch
    from accelerate import PartialState

    from launch.resources.device import device_of
    from launch.resources.plan import machine_cores

    state = PartialState(cpu=device_of(config) == "cpu")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(config.resources.driver_threads or max(1, machine_cores() // processes))
    return state


@contextlib.contextmanager
def _main_process_talks(state: PartialState) -> Iterator[None]:
    """Keeps the logs and progress of other processes quiet for the time of a block; an error that ends it is told."""
    err.quiet = not state.is_main_process
    try:
        yield
    finally:
        err.quiet = False


@dataclass(frozen=True)
class _HeldOut:
    """What the policy rewrites at the end, and the classifier that judges it."""

    pairs: list[Example]
    rewards: LocalRewards


def _held_out(config: RunConfig, examples: WarmStartExamples, splits: Splits) -> _HeldOut | None:
    """Loaded and chosen before the training, so that what is wrong is told at once; None without a classifier."""
    from launch.training.warmstart_report import low_empathy_pairs
    from rewards.empathy import NAME
    from rewards.local import LocalRewards
    from rewards.registry import all_components

    if config.rewards.empathy.checkpoint is None:
        return None
    rewards = LocalRewards({NAME: all_components(config, Path())[NAME]})
    seen = {example.state.seeker_post for example in (*examples.train, *examples.dev)}
    return _HeldOut(low_empathy_pairs(splits.test, config, rewards, seen), rewards)


def _examples(config: RunConfig) -> tuple[WarmStartExamples, Splits | None]:
    """The examples, and the corpus where they or the rewrites come from it."""
    from launch.training.phases import load_splits
    from partner_rl.warmstart.examples import make_examples, read_examples_of

    source = config.warmstart.data
    if source is not None:
        examples = read_examples_of(config, Path(source))
        return examples, None if config.rewards.empathy.checkpoint is None else load_splits(config)
    splits = load_splits(config)
    return make_examples(config, splits), splits


def _policy(config: RunConfig, state: PartialState) -> Policy:
    import torch

    from partner_rl.models.sources import resolve
    from partner_rl.policy.pretrained import load_policy

    settings = config.policy
    on_gpu = state.device.type == "cuda"
    if settings.dtype == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        logger.warning("this GPU has no bfloat16: training in float32 (policy.dtype)")
        settings = settings.model_copy(update={"dtype": "float32"})
    folder = resolve(config.models.policy, config.models.cache)
    return load_policy(folder, settings, config.env.window, str(state.device))


@contextlib.contextmanager
def _kept(config: RunConfig, work: Path, splits: Splits | None) -> Iterator[None]:
    """Keeps other trainings out of the folder of the state for the time of a block, and notes what the state is of."""
    work.mkdir(parents=True, exist_ok=True)
    with alone(work, "training"):
        _record_inputs(config, work, splits)
        yield


@contextlib.contextmanager
def _resumable(output: Path) -> Iterator[None]:
    """Tells, when Ctrl-C ends the block, how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"interrupted; go on with: {_resume_command(output)}") from interrupt


def _measure(
    config: RunConfig,
    policy: Policy,
    examples: WarmStartExamples,
    training: WarmStartReport,
    held_out: _HeldOut | None,
) -> WarmStartResult:
    """Test scores by all processes together, then the rewrites, by the one that has the classifier."""
    from launch.training.warmstart_report import WarmStartResult, empathy_change
    from partner_rl.warmstart.history import position_baselines
    from partner_rl.warmstart.train import score_examples

    test = score_examples(policy, examples.test, config.warmstart)
    rewrites = None
    if held_out is not None:
        with progress("Rewriting held-out responses") as report:
            rewrites = empathy_change(policy, held_out.pairs, config, held_out.rewards, report)
    return WarmStartResult(
        training, test, position_baselines(examples.train, examples.test, config.env.window), rewrites
    )
