"""What is measured: prompts of a given length, answered with sentences of exactly as many tokens as asked for.

A sentence ends when its end token is drawn, at another place each time. For equal work on both sides, and in each
iteration, the benchmarks' policy cannot draw the end token and cannot choose to leave the response alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import Any, Final

import torch

from benchmarks.work import Workload
from envs import rewriting
from partner_rl.config.load import load_config
from partner_rl.config.schema import RunConfig
from partner_rl.data.readers import read_examples
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.vocabulary import ActionVocabulary
from partner_rl.types import Example, PartnerError, RewardBreakdown, RewriteState, ScoreRequest

NEVER: Final = -1e4
"""Logit of the position that is never chosen; finite, so that its product with probability 0 is 0."""

RESPONSES: Final = (
    ("Try to get some rest tonight.", "Things will look better soon."),
    ("You could talk to your manager.", "Write down what happened first."),
    ("Go for a walk after lunch.", "Fresh air helps a lot."),
    ("Make a list of what is due.", "Start with the smallest part."),
    ("Call somebody you trust.", "It does not need to be long."),
    ("Drink less coffee in the evening.", "Sleep comes easier then."),
    ("Ask your doctor about it.", "They see this every day."),
    ("Take the weekend off.", "Nobody will mind."),
)
"""The responses to be rewritten, short enough to leave room for posts of different lengths."""

SHORT_PROMPT: Final = 64
"""Prompts below this many tokens have a response of one sentence instead of two."""


def run_config(work: Workload, base: str = "embedded") -> RunConfig:
    """A run's configuration for a workload: every weight trained, no penalty, scores not kept.

    Args:
        work: The workload; its own keys win over the preset's, its overrides over both.
        base: A preset or a YAML file, which says how the rewards are computed.

    Raises:
        PartnerError: An override is wrong.
    """
    # A group of one has nobody to be compared with.
    advantage = "rloo" if work.samples > 1 else "reinforce"
    own = {
        "models.policy": work.model,
        "policy.lora": "null",
        "policy.max_seeker_tokens": work.prompt_tokens,
        "policy.max_new_tokens": work.new_tokens,
        "policy.dtype": work.dtype,
        "policy.temperature": 1.0,
        "env.max_edits": 1,
        "rewards.cache_size": 0,
        # The plain sum of what is scored: TRL has neither of these rewards.
        "rewards.empathy.normalize": "sum",
        "rewards.variety.weight": 0.0,
        "rewards.honesty.weight": 0.0,
        "algorithm.normalization": "none",
        "algorithm.component_clip": "null",
        "algorithm.groups_per_iteration": work.groups,
        "algorithm.samples_per_group": work.samples,
        "algorithm.advantage": advantage,
        "algorithm.learning_rate": work.learning_rate,
        "algorithm.kl_coeff": 0.0,
        "algorithm.position_entropy_coeff": 0.0,
        "algorithm.micro_batch_tokens": 4096,
        "resources.driver_threads": work.threads,
        "device": work.device,
        "seed": work.seed,
    }
    return load_config(base, [*(f"{key}={value}" for key, value in own.items()), *work.overrides])


def make_examples(tokenizer: Any, config: RunConfig, tokens: int, count: int) -> list[Example]:
    """Pairs whose prompts have at most a number of tokens, and a word less at worst.

    The posts are made of the words of the corpus that ships with the package.

    Args:
        tokenizer: The policy's tokenizer.
        config: The task and the prompt's settings.
        tokens: Tokens of a prompt.
        count: How many pairs; each has words of its own.

    Raises:
        PartnerError: Not even a post of one word is that short.
    """
    words = " ".join(example.seeker_post for example in read_examples("sample").examples).split()
    return [_example(tokenizer, config, tokens, words, number) for number in range(count)]


def _example(tokenizer: Any, config: RunConfig, tokens: int, words: Sequence[str], number: int) -> Example:
    sentences = RESPONSES[number % len(RESPONSES)][: 1 if tokens < SHORT_PROMPT else 2]
    start = number * tokens % len(words)
    stream = list(islice(cycle(words), start, start + tokens))

    def example(length: int) -> Example:
        return Example(f"s{number}", f"r{number}", " ".join(stream[:length]), " ".join(sentences))

    def width(length: int) -> int:
        return len(encode_prompt(tokenizer, state_of(example(length), config), config.policy))

    low, high = 0, tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(middle) <= tokens else (low, middle - 1)
    if low == 0:
        raise PartnerError(
            f"a prompt of {tokens} tokens has no room for a post: this model's prompts start at {width(1)} tokens"
        )
    return example(low)


def state_of(example: Example, config: RunConfig) -> RewriteState:
    """What the policy sees of a pair at first."""
    return rewriting.observe(rewriting.reset(example, config.env))


def free_reward(requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
    """A reward that costs nothing: a number in 0…1 that is always the same for a text."""
    values = [zlib.crc32(request.rewritten_response.encode()) / 2**32 for request in requests]
    return [RewardBreakdown({"empathy": value}) for value in values]


@dataclass(frozen=True)
class FixedLengthVocabulary(ActionVocabulary):
    """An action vocabulary without the end token and without the no-op, in sampling and in training alike."""

    @cached_property
    def banned_ids(self) -> list[int]:
        """Every special token: a sentence goes on to its last token."""
        return [i for i in self.special_ids if i < self.first_position_id]

    def position_logprobs(self, logits_BV: torch.Tensor, valid_BA: torch.Tensor, temperature: float) -> torch.Tensor:
        """Log-probabilities `[B, A]` of the positions; the no-op's is so low that it is never drawn."""
        # A copy of the last prompt token's logits alone, whose other columns play no part in the position.
        logits_BV = logits_BV.clone()
        logits_BV[:, self.position_ids.stop - 1] = NEVER
        return super().position_logprobs(logits_BV, valid_BA, temperature)


def fixed_length(vocabulary: ActionVocabulary) -> FixedLengthVocabulary:
    """The same vocabulary for sentences of a fixed length."""
    return FixedLengthVocabulary(
        vocabulary.window, vocabulary.first_position_id, vocabulary.end_id, vocabulary.special_ids
    )
