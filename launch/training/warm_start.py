"""A warm start of its own: supervised training of position and sentence, in one process or several of `accelerate`.

While it trains, everything lies in `OUTPUT.training`; `OUTPUT` appears when it is whole.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from launch.console import err, out, progress
from launch.interrupt import resumable_by, stop_on_request
from launch.resources.device import device_of
from launch.resources.plan import machine_cores
from launch.run_folder.lock import alone
from launch.run_folder.record import CONFIG_FILE
from launch.training.phases import load_splits
from launch.training.warm_start_folder import KIND, WarmStartFolder
from launch.training.warmstart_report import (
    WarmStartResult,
    empathy_change,
    low_empathy_pairs,
    summary_table,
    write_report,
)
from partner_rl.config.load import save_config
from partner_rl.config.schema import RunConfig
from partner_rl.data.splits import Splits
from partner_rl.models.sources import resolve
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy, save_policy
from partner_rl.storage.atomic import folder_when_whole
from partner_rl.types import Example
from partner_rl.warmstart.examples import WarmStartExamples, make_examples, read_examples_of
from partner_rl.warmstart.history import WarmStartReport, position_baselines
from partner_rl.warmstart.train import score_examples, train_warmstart
from rewards.empathy import NAME
from rewards.local import LocalRewards
from rewards.registry import all_components

logger = logging.getLogger(__name__)


def warm_start(config: RunConfig, folder: WarmStartFolder) -> None:
    """Trains, measures and writes the output folder; Ctrl-C leaves a state to resume from."""
    state = _process(config)
    with _main_process_talks(state):
        _train_and_write(config, folder, state)


def _train_and_write(config: RunConfig, folder: WarmStartFolder, state: PartialState) -> None:
    output, work = folder.output, folder.work
    examples, splits = _examples(config)
    held_out = _held_out(config, examples, splits) if splits is not None and state.is_main_process else None
    torch.manual_seed(config.seed)
    policy = _policy(config, state)
    state.wait_for_everyone()
    with (
        _kept(config, folder, splits) if state.is_main_process else nullcontext(),
        resumable_by(folder.resume_command),
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
    state = PartialState(cpu=device_of(config) == "cpu")
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(config.resources.driver_threads or max(1, machine_cores() // processes))
    return state


@contextmanager
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
    if config.rewards.empathy.checkpoint is None:
        return None
    rewards = LocalRewards({NAME: all_components(config, Path())[NAME]})
    seen = {example.state.seeker_post for example in (*examples.train, *examples.dev)}
    return _HeldOut(low_empathy_pairs(splits.test, config, rewards, seen), rewards)


def _examples(config: RunConfig) -> tuple[WarmStartExamples, Splits | None]:
    """The examples, and the corpus where they or the rewrites come from it."""
    source = config.warmstart.data
    if source is not None:
        examples = read_examples_of(config, Path(source))
        return examples, None if config.rewards.empathy.checkpoint is None else load_splits(config)
    splits = load_splits(config)
    return make_examples(config, splits), splits


def _policy(config: RunConfig, state: PartialState) -> Policy:
    settings = config.policy
    on_gpu = state.device.type == "cuda"
    if settings.dtype == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        logger.warning("this GPU has no bfloat16: training in float32 (policy.dtype)")
        settings = settings.model_copy(update={"dtype": "float32"})
    folder = resolve(config.models.policy, config.models.cache)
    return load_policy(folder, settings, config.env.window, str(state.device))


@contextmanager
def _kept(config: RunConfig, folder: WarmStartFolder, splits: Splits | None) -> Iterator[None]:
    """Keeps other trainings out of the folder of the state for the time of a block, and notes what the state is of."""
    folder.work.mkdir(parents=True, exist_ok=True)
    with alone(folder.work, "training"):
        folder.record_inputs(config, splits)
        yield


def _measure(
    config: RunConfig,
    policy: Policy,
    examples: WarmStartExamples,
    training: WarmStartReport,
    held_out: _HeldOut | None,
) -> WarmStartResult:
    """Test scores by all processes together, then the rewrites, by the one that has the classifier."""
    test = score_examples(policy, examples.test, config.warmstart)
    rewrites = None
    if held_out is not None:
        with progress("Rewriting held-out responses") as report:
            rewrites = empathy_change(policy, held_out.pairs, config, held_out.rewards, report)
    return WarmStartResult(
        training, test, position_baselines(examples.train, examples.test, config.env.window), rewrites
    )
