"""A toy task, a tiny policy and a helper of the warm start's tests."""

from __future__ import annotations

from pathlib import Path

import torch

from partner_rl.config.schema import PolicyConfig
from partner_rl.models.sources import resolve
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy
from partner_rl.positions import noop_position
from partner_rl.types import EditAction, RewriteState
from partner_rl.warmstart.packing import TokenExample, encode_example
from partner_rl.warmstart.pairs import WarmStartExample

WINDOW = 2
SETTINGS = PolicyConfig(max_seeker_tokens=12, max_sentence_tokens=12, max_new_tokens=12)
TOPICS = {"work": "Work is hard.", "sleep": "Sleep well."}


def toy_examples(count: int) -> list[WarmStartExample]:
    """The topic of the post decides place and sentence; a post about nothing is left alone."""
    examples = []
    for number in range(count):
        topic = ("work", "sleep", "none")[number % 3]
        place = {"work": 0, "sleep": 2, "none": noop_position(WINDOW)}[topic]
        # Posts and responses differ in length, so that there is padding to get wrong.
        span = ("Ok.", "Bye.") if number % 2 else ("I am not sure what to say to you.",)
        place = min(place, 1) if len(span) == 1 and topic != "none" else place
        state = RewriteState(" ".join([topic] * (1 + number % 5)), span)
        examples.append(WarmStartExample(state, EditAction(place, TOPICS.get(topic, ""))))
    return examples


def toy_rows(policy: Policy, count: int) -> list[TokenExample]:
    """The toy examples as tokens."""
    return [encode_example(policy, example) for example in toy_examples(count)]


def tiny_policy(folder: Path, settings: PolicyConfig = SETTINGS, architecture: str = "gpt2") -> Policy:
    """A policy with random weights, the same at each call."""
    torch.manual_seed(0)
    return load_policy(resolve(f"random:{architecture}", folder / "cache"), settings, WINDOW, "cpu")


def gradients(policy: Policy) -> torch.Tensor:
    """The gradients of all trained parameters in one row."""
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])
