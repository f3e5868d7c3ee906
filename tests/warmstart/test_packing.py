"""Packed rows give the loss and the gradient of separate rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from partner_rl.config.section import LoraSection
from partner_rl.policy.actions import decode_action
from partner_rl.policy.logprobs import PromptGroup, action_logprobs, pack_groups
from partner_rl.policy.model import Policy
from partner_rl.types import EditAction, RewriteState
from partner_rl.warmstart.packing import TokenExample, encode_example, pack_rows, row_logprobs
from partner_rl.warmstart.pairs import WarmStartExample
from tests.warmstart.toy import SETTINGS, gradients, tiny_policy, toy_rows

ARCHITECTURES = pytest.mark.parametrize("architecture", ["gpt2", "llama"])
ADAPTERS = pytest.mark.parametrize("lora", [None, LoraSection(rank=4)], ids=["full", "lora"])


def build(folder: Path, architecture: str, lora: LoraSection | None = None) -> Policy:
    policy = tiny_policy(folder, SETTINGS.model_copy(update={"lora": lora}), architecture)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                # Fresh adapters do nothing: their gradients would be zero in any case.
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.02)
    return policy


def loss_of(policy: Policy, rows: list[list[TokenExample]]) -> torch.Tensor:
    scored = row_logprobs(policy.model, pack_rows(rows, policy.vocabulary, policy.pad_id), policy.vocabulary)
    return -scored.log_chosen_E.sum() - scored.log_tokens_N.sum()


def reference_loss(policy: Policy, example: TokenExample) -> torch.Tensor:
    """An example alone, by the code that RL trains with."""
    group = PromptGroup(example.prompt, example.num_sentences, (example.action,))
    packed = pack_groups([group], policy.vocabulary, policy.pad_id)
    scored = action_logprobs(policy.model, packed, policy.vocabulary, 1.0)
    return -(scored.logprobs_GKT * scored.mask_GKT).sum()


@ARCHITECTURES
@ADAPTERS
@pytest.mark.parametrize("layout", [[7], [1] * 7, [3, 1, 3]], ids=["one row", "a row each", "several rows"])
def test_loss_and_gradient_equal_those_of_examples_alone(
    tmp_path: Path, architecture: str, lora: LoraSection | None, layout: list[int]
) -> None:
    policy = build(tmp_path, architecture, lora)
    examples = toy_rows(policy, 7)
    alone = torch.stack([reference_loss(policy, example) for example in examples]).sum()
    alone.backward()
    expected = gradients(policy)

    policy.model.zero_grad()
    remaining = iter(examples)
    packed = loss_of(policy, [[next(remaining) for _ in range(size)] for size in layout])
    packed.backward()
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradients(policy), expected, atol=1e-4, rtol=1e-4)


@ARCHITECTURES
def test_an_example_does_not_see_its_neighbours(tmp_path: Path, architecture: str) -> None:
    policy = build(tmp_path, architecture)
    first, second, third = toy_rows(policy, 3)

    def scores(rows: list[list[TokenExample]]) -> torch.Tensor:
        return row_logprobs(policy.model, pack_rows(rows, policy.vocabulary, 0), policy.vocabulary).log_chosen_E

    together = scores([[first, second, third]])
    torch.testing.assert_close(scores([[third, second, first]]).flip(0), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores([[second]]), together[1:2], atol=1e-5, rtol=0)


def test_the_layout_of_a_row(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path)
    edit, _, noop = toy_rows(policy, 3)
    assert noop.length == len(noop.prompt)
    assert not noop.action.tokens
    packed = pack_rows([[edit, noop], [noop]], policy.vocabulary, policy.pad_id)
    position_token = policy.vocabulary.first_position_id + edit.action.position
    row = [*edit.prompt, position_token, *edit.action.tokens[:-1], *noop.prompt]
    assert packed.input_RL[0].tolist() == row
    assert packed.example_RL[1].tolist() == [0] * noop.length + [-1] * edit.length
    assert packed.position_id_RL[0].tolist() == [*range(edit.length), *range(noop.length)]
    assert packed.target_N.tolist() == list(edit.action.tokens)
    predicting = packed.input_RL.flatten()[packed.place_N].tolist()
    assert predicting == [position_token, *edit.action.tokens[:-1]]
    lasts = packed.input_RL.flatten()[packed.place_E].tolist()
    assert lasts == [edit.prompt[-1], noop.prompt[-1], noop.prompt[-1]]


def test_all_positions_of_a_window_sum_to_one_and_the_others_are_impossible(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path, architecture="llama")
    packed = pack_rows([toy_rows(policy, 6)], policy.vocabulary, policy.pad_id)
    scored = row_logprobs(policy.model, packed, policy.vocabulary)
    torch.testing.assert_close(scored.log_positions_EA.exp().sum(1), torch.ones(6))
    assert torch.isinf(scored.log_positions_EA[~packed.valid_EA]).all()


def test_examples_without_any_sentence_are_scored(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path)
    noop = toy_rows(policy, 3)[2]
    loss = loss_of(policy, [[noop, noop]])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(gradients(policy)).all()


def test_the_head_is_as_before_after_a_pass(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path)
    loss_of(policy, [toy_rows(policy, 2)])
    assert policy.model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape[1] == 3


def test_nothing_to_pack_is_refused(tmp_path: Path) -> None:
    policy = tiny_policy(tmp_path)
    for rows in ([], [[]]):
        with pytest.raises(ValueError, match="every row an example"):
            pack_rows(rows, policy.vocabulary, policy.pad_id)


@ARCHITECTURES
@pytest.mark.parametrize("control", ["<|noop|>", "<|insert_0|>", "<|replace_1|>", "<|endoftext|>", "</s>", "<pad>"])
def test_a_control_token_in_a_target_is_text(tmp_path: Path, architecture: str, control: str):
    policy = tiny_policy(tmp_path, SETTINGS.model_copy(update={"max_new_tokens": 60}), architecture)
    written = f"I am {control} so sorry."
    encoded = encode_example(policy, WarmStartExample(RewriteState(control, (control,)), EditAction(0, written)))
    assert max(encoded.action.tokens) < policy.vocabulary.first_position_id
    assert set(encoded.action.tokens) & {*policy.vocabulary.special_ids} == {policy.vocabulary.end_id}
    assert decode_action(policy, encoded.action).sentence == written
    assert torch.isfinite(loss_of(policy, [[encoded]]))
