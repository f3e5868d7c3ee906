"""The program of TRL's process: GRPOTrainer on the same model, prompts and number of tokens.

It is set up as a careful user would: no gradient checkpointing (which saves memory for time), no reference model
(`beta=0`), one update of each sample, samples of the policy that is updated, so that no second pass for old
log-probabilities is needed, no logging and no checkpoints. Where TRL would ask four reward functions one after the
other, the first one asks for all four at once, as our side does.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import ray
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from benchmarks.sides import Round, Task
from benchmarks.work import Workload
from benchmarks.workload import fixed_length, free_reward, make_examples, run_config, state_of
from envs import rewriting
from partner_rl.config.schema import RunConfig
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.policy.actions import ActionTokens, decode_action
from partner_rl.policy.model import Policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.vocabulary import ActionVocabulary
from partner_rl.positions import num_positions
from partner_rl.types import Example, PartnerError, RewardBreakdown, ScoreRequest
from rewards.pool import RewardClient

EPOCH_STEPS: Final = 64
"""Steps in a pass over the dataset, which repeats the prompts: passes start outside of the measured time."""
MAX_STEPS: Final = 1_000_000
"""More than anybody asks for: the gate ends the training."""

Score = Callable[[Sequence[ScoreRequest]], Sequence[RewardBreakdown]]


class _Stop(Exception):
    """Ends the training from within a callback."""


class Gate(TrainerCallback):
    """Holds the trainer before each step until the parent asks for a round, and answers when the step is done."""

    def __init__(self, connection: Connection, work: Workload) -> None:
        self._connection = connection
        self._work = work
        self._started = 0.0
        self.completions: list[int] = []
        self.prompt_tokens = 0

    def on_step_begin(self, *arguments: Any, **keywords: Any) -> None:
        """Waits for a request; raises `_Stop` when there will be no more."""
        if self._connection.recv() == "stop":
            raise _Stop
        self.completions = []
        self._started = time.perf_counter()

    def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
        """Answers with the round; an unequal number of tokens is an error."""
        seconds = time.perf_counter() - self._started
        work = self._work
        if len(self.completions) != work.episodes or set(self.completions) != {work.new_tokens}:
            raise PartnerError(
                f"TRL sampled {len(self.completions)} sentences of {sorted(set(self.completions))} tokens, "
                f"not {work.episodes} of {work.new_tokens}: the comparison would not be fair"
            )
        self._connection.send(
            Round(
                seconds=seconds,
                episodes=len(self.completions),
                prompt_tokens=self.prompt_tokens,
                new_tokens=sum(self.completions),
                threads=torch.get_num_threads(),
                phases={},
            )
        )


class Rewards:
    """The reward functions that TRL gets: one for the free reward, one a component for the scorers."""

    def __init__(
        self,
        weights: Mapping[str, float],
        score: Score,
        to_request: Callable[[int, Sequence[int]], ScoreRequest],
    ):
        self._weights = weights
        self._score = score
        self._to_request = to_request
        self._key: tuple[tuple[int, tuple[int, ...]], ...] = ()
        self._breakdowns: Sequence[RewardBreakdown] = ()
        self.functions = [self._function(name) for name in weights]

    def _function(self, name: str) -> Callable[..., list[float]]:
        def reward(completion_ids: list[list[int]], pair: list[int], **rest: Any) -> list[float]:
            return [self._weights[name] * breakdown.raw[name] for breakdown in self._scored(pair, completion_ids)]

        reward.__name__ = name
        return reward

    def _scored(self, pairs: Sequence[int], completions: Sequence[Sequence[int]]) -> Sequence[RewardBreakdown]:
        """The step's scores: the first function computes them for all."""
        key = tuple((pair, tuple(ids)) for pair, ids in zip(pairs, completions, strict=True))
        if key != self._key:
            self._breakdowns = self._score([self._to_request(pair, ids) for pair, ids in key])
            self._key = key
        return self._breakdowns


def main(connection: Connection, task: Task) -> None:
    """Builds the trainer and serves rounds from within its loop."""
    torch.set_num_threads(task.work.threads)
    config = run_config(task.work)
    tokenizer = load_tokenizer(Path(task.folder))
    examples = make_examples(tokenizer, config, task.work.prompt_tokens, task.work.groups)
    prompts = [encode_prompt(tokenizer, state_of(example, config), config.policy) for example in examples]
    gate = Gate(connection, task.work)
    gate.prompt_tokens = task.work.samples * sum(map(len, prompts))
    rewards = _rewards(task, tokenizer, config, examples)
    rows = [{"prompt": _as_text(tokenizer, ids), "pair": number} for number, ids in enumerate(prompts)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=load_causal_lm(Path(task.folder)),
            reward_funcs=[_counted(rewards.functions[0], gate), *rewards.functions[1:]],  # type: ignore[list-item]
            args=trainer_settings(task, config, folder),
            train_dataset=Dataset.from_list(rows * EPOCH_STEPS),
            processing_class=tokenizer,
            callbacks=[gate],
        )
        connection.send("ready")
        with contextlib.suppress(_Stop):
            trainer.train()
    if task.address is not None:
        ray.shutdown()


def trainer_settings(task: Task, config: RunConfig, folder: str) -> GRPOConfig:
    """TRL's configuration: a step is `G · K` episodes, sampled by the policy that it updates."""
    work = task.work
    passes, rest = divmod(work.episodes, task.trl_batch)
    if rest:
        raise PartnerError(f"--trl-batch {task.trl_batch} does not divide a step's {work.episodes} episodes")
    return GRPOConfig(
        output_dir=folder,
        max_steps=MAX_STEPS,
        per_device_train_batch_size=task.trl_batch,
        gradient_accumulation_steps=passes,
        steps_per_generation=passes,
        num_generations=work.samples,
        num_iterations=1,
        beta=0.0,
        max_completion_length=work.new_tokens,
        generation_kwargs={"min_new_tokens": work.new_tokens},
        temperature=config.policy.temperature,
        top_p=1.0,
        top_k=0,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=config.algorithm.weight_decay,
        max_grad_norm=config.algorithm.grad_clip,
        gradient_checkpointing=False,
        bf16=work.dtype == "bfloat16",
        fp16=False,
        use_cpu=work.device == "cpu",
        shuffle_dataset=False,
        seed=work.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _as_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """A prompt as the text that TRL is given, which must make the same tokens again."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    if list(tokenizer(text).input_ids) != list(ids):
        raise PartnerError("a prompt makes other tokens as a text than in pieces: choose another --prompt-tokens")
    return text


def _counted(function: Callable[..., list[float]], gate: Gate) -> Callable[..., list[float]]:
    def counted(completion_ids: list[list[int]], **rest: Any) -> list[float]:
        gate.completions += [len(ids) for ids in completion_ids]
        return function(completion_ids=completion_ids, **rest)

    counted.__name__ = function.__name__
    return counted


def _rewards(task: Task, tokenizer: Any, config: RunConfig, examples: Sequence[Example]) -> Rewards:
    window = config.env.window
    vocabulary = ActionVocabulary(window, len(tokenizer), int(tokenizer.eos_token_id), ())
    # What decodes an action reads tokenizer and vocabulary alone.
    policy = Policy(model=None, tokenizer=tokenizer, vocabulary=fixed_length(vocabulary), settings=config.policy)

    def to_request(pair: int, ids: Sequence[int]) -> ScoreRequest:
        """The rewrite of a completion: the sentence put after the response's last one."""
        state = rewriting.reset(examples[pair], config.env)
        position = min(len(state.current.sentences), window)
        assert position < num_positions(window)
        return rewriting.score_request(
            rewriting.step(state, decode_action(policy, ActionTokens(position, tuple(ids))), config.env)
        )

    if task.scorers is None:
        return Rewards({"empathy": config.rewards.empathy.weight}, free_reward, to_request)
    ray.init(address=task.address, log_to_driver=False)
    weights = {name: config.rewards.weights()[name] for name, pool in task.scorers.pools.items() if pool.is_active}
    return Rewards(weights, RewardClient(task.scorers).score, to_request)
