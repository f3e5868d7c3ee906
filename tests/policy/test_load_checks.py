"""Architectures that are computed rightly are loaded, and others are refused with their name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from partner_rl.config.schema import PolicyConfig
from partner_rl.config.section import LoraSection
from partner_rl.models.loading import load_tokenizer
from partner_rl.policy import position_rows
from partner_rl.policy.generate import Sampling, sample_actions
from partner_rl.policy.logprobs import PromptGroup, action_logprobs, pack_groups
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy, save_policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.shared_prompt import SharedPromptCache
from partner_rl.types import PartnerError, RewriteState
from tests.policy.architectures import ARCHITECTURES, build

WINDOW = 2
STATE = RewriteState("My flat is far too quiet now", ("Try tea.", "Start again."))
LORA = LoraSection(rank=2)
REFUSED = {
    "gemma2": r"Gemma2ForCausalLM does not use PyTorch's attention",
    "lfm2": r"\(lfm2\) cannot share a prompt",
}
"""Architectures that cannot be a policy, and what is said of them."""


def load(folder: Path, **settings: object) -> Policy:
    return load_policy(folder, PolicyConfig(max_new_tokens=6, **settings), WINDOW)


def logprobs(policy: Policy, group: PromptGroup) -> torch.Tensor:
    with torch.no_grad():
        packed = pack_groups([group], policy.vocabulary, policy.pad_id)
        return action_logprobs(policy.model, packed, policy.vocabulary, 1.0).logprobs_GKT


def drawn(policy: Policy, samples: int = 6):
    return sample_actions(policy, [STATE], samples, Sampling(), torch.Generator().manual_seed(1))[0]


def group_of(policy: Policy, samples) -> PromptGroup:
    prompt = tuple(encode_prompt(policy.tokenizer, STATE, policy.settings))
    return PromptGroup(prompt, len(STATE.span), tuple(sample.action for sample in samples))


def move(policy: Policy) -> None:
    """Changes whatever is trained, as training does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in REFUSED])
def test_sampling_training_reference_and_export_agree(architecture: str, tmp_path: Path):
    policy = load(build(architecture, tmp_path / "plain"), lora=LORA)
    group = group_of(policy, drawn(policy))
    fresh = logprobs(policy, group)
    with policy.adapters_off():
        torch.testing.assert_close(logprobs(policy, group), fresh, atol=1e-4, rtol=0)
    move(policy)
    samples = drawn(policy)
    moved = logprobs(policy, group_of(policy, samples))
    for k, sample in enumerate(samples):
        found = moved[0, k, : len(sample.logprobs)]
        torch.testing.assert_close(found, torch.tensor(sample.logprobs), atol=1e-3, rtol=0)
    trained = logprobs(policy, group)
    assert not torch.allclose(trained, fresh, atol=0.05)
    with policy.adapters_off():
        torch.testing.assert_close(logprobs(policy, group), fresh, atol=1e-4, rtol=0)
    save_policy(policy, tmp_path / "export")
    torch.testing.assert_close(logprobs(load(tmp_path / "export"), group), trained, atol=1e-3, rtol=0)


@pytest.mark.parametrize("architecture", ["gemma", "gemma3_text"])
def test_position_rows_at_another_scale_are_refused(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = build(architecture, tmp_path)
    monkeypatch.setattr(position_rows, "_as_looked_up", lambda base, rows: rows)
    with pytest.raises(PartnerError, match="the model without its adapters gives log-probabilities that are"):
        load(folder, lora=LORA)
    load(folder)


def test_a_shared_prompt_that_is_read_wrongly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = build("llama", tmp_path)
    attend = SharedPromptCache.attend
    monkeypatch.setattr(
        SharedPromptCache, "attend", lambda self, layer, q, k, v, scale: attend(self, layer, q, k, v, 2 * scale)
    )
    with pytest.raises(PartnerError, match=r"\(llama\) is computed wrongly here: decoding from a shared prompt"):
        load(folder)


@pytest.mark.parametrize("architecture", REFUSED)
def test_what_cannot_be_a_policy_is_refused(architecture: str, tmp_path: Path):
    with pytest.raises(PartnerError, match=REFUSED[architecture]):
        load(build(architecture, tmp_path))


@pytest.mark.parametrize("architecture", ["mistral", "gemma3_text"])
def test_a_sliding_window_holds_the_longest_prompt_and_sentence(architecture: str, tmp_path: Path):
    settings = {"max_seeker_tokens": 20, "max_sentence_tokens": 10}
    folder = build(architecture, tmp_path, sliding_window=64)
    with pytest.raises(PartnerError, match=r"attends to 64 tokens at once.*lower policy\.max_seeker_tokens") as refused:
        load(folder, **settings)
    longest = int(str(refused.value).split("take up to ")[1].split(":")[0])
    state = RewriteState("quiet " * 40, ("quiet " * 20,) * WINDOW)
    prompt = len(encode_prompt(load_tokenizer(folder), state, PolicyConfig(**settings)))
    # The frame is counted with a space for each text.
    assert prompt + 6 <= longest <= prompt + 6 + 2 * (1 + WINDOW)
    load(build(architecture, tmp_path / "wider", sliding_window=longest), **settings)


def test_a_window_that_no_layer_uses_refuses_nothing(tmp_path: Path):
    load(build("qwen2", tmp_path, sliding_window=16, use_sliding_window=False))
    with pytest.raises(PartnerError, match="attends to 16 tokens at once"):
        load(build("qwen2", tmp_path / "used", sliding_window=16, use_sliding_window=True, max_window_layers=1))
