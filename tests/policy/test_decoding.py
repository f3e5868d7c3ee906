"""The fast decoder draws what a plain one draws: no cache, no shared prompt, one row at a time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from partner_rl.config.schema import PolicyConfig
from partner_rl.models.loading import load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.policy import model
from partner_rl.policy.generate import PromptRows, Sampling, sample_actions, sample_prompts
from partner_rl.policy.logprobs import PromptGroup, action_logprobs, pack_groups
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.positions import noop_position
from partner_rl.types import PartnerError, RewriteState

WINDOW = 3
SAMPLES = 5
STATES = (
    RewriteState("My exam is tomorrow and I cannot sleep at all", ("Try tea.", "You could read a book for a while.")),
    RewriteState("lost", ("ok.",)),
    RewriteState("Nobody at work talks to me any more", ()),
)


def build(architecture: str, **settings: object) -> Policy:
    return load_policy(resolve(architecture, None), PolicyConfig(max_new_tokens=6, temperature=0.8, **settings), WINDOW)


def prompts_of(policy: Policy, samples: int, greedy: bool = False) -> list[PromptRows]:
    return [
        PromptRows(tuple(encode_prompt(policy.tokenizer, state, policy.settings)), len(state.span), samples, greedy)
        for state in STATES
    ]


def sampled(policy: Policy, prompts: list[PromptRows]):
    return sample_prompts(policy, prompts, Sampling(0.8), torch.Generator().manual_seed(4))


def invert(logprobs_V: torch.Tensor, uniform: float) -> int:
    """The word at which the cumulative distribution passes a number."""
    cumulative_V = logprobs_V.exp().double().cumsum(0)
    return int((cumulative_V <= uniform * cumulative_V[-1]).sum())


@torch.no_grad()
def plain_samples(policy: Policy) -> list[tuple[int, list[int], list[float]]]:
    """Position, tokens and log-probabilities of each row, by a forward pass over the whole row for every token."""
    vocabulary, generator = policy.vocabulary, torch.Generator().manual_seed(4)
    prompts = [p for p in prompts_of(policy, 1) for _ in range(SAMPLES)]

    def logits_after(ids: list[int]) -> torch.Tensor:
        return policy.model(input_ids=torch.tensor([ids])).logits[:, -1]

    rows: list[tuple[int, list[int], list[float]]] = []
    for prompt, uniform in zip(
        prompts, torch.rand(len(prompts), generator=generator, dtype=torch.float64), strict=True
    ):
        valid = vocabulary.valid_positions(prompt.num_sentences)[None]
        logprobs = vocabulary.position_logprobs(logits_after(list(prompt.prompt)), valid, 0.8)[0]
        position = invert(logprobs, float(uniform))
        rows.append((position, [], [float(logprobs[position])]))
    for _ in range(policy.settings.max_new_tokens):
        live = [
            i
            for i, (position, tokens, _) in enumerate(rows)
            if position != noop_position(WINDOW) and vocabulary.end_id not in tokens
        ]
        for i, uniform in zip(live, torch.rand(len(live), generator=generator, dtype=torch.float64), strict=True):
            position, tokens, values = rows[i]
            ids = [*prompts[i].prompt, vocabulary.first_position_id + position, *tokens]
            logprobs = vocabulary.word_logits(logits_after(ids), 0.8).log_softmax(-1)[0]
            tokens.append(invert(logprobs, float(uniform)))
            values.append(float(logprobs[tokens[-1]]))
    return rows


@pytest.mark.parametrize("architecture", ["random:gpt2", "random:llama"])
def test_the_decoder_draws_what_a_plain_one_draws(architecture: str):
    policy = build(architecture)
    found = [sample for group in sampled(policy, prompts_of(policy, SAMPLES)) for sample in group]
    for sample, (position, tokens, logprobs) in zip(found, plain_samples(policy), strict=True):
        assert sample.action.position == position
        assert list(sample.action.tokens) == tokens
        assert sample.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_rows_that_end_leave_the_others_as_they_are():
    """The likeliest end token there is, so that rows leave in every step, and whole prompts with them."""
    policy = build("random:llama")
    tokens = [t for group in sampled(policy, prompts_of(policy, SAMPLES)) for s in group for t in s.action.tokens]
    ending = replace(policy, vocabulary=replace(policy.vocabulary, end_id=max(set(tokens), key=tokens.count)))
    bias = torch.zeros(policy.model.config.vocab_size)
    bias[ending.vocabulary.end_id] = 5.0
    head = policy.model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, logits: logits + bias[: logits.shape[-1]])
    found = [sample for group in sampled(ending, prompts_of(policy, SAMPLES)) for sample in group]
    lengths = {len(sample.action.tokens) for sample in found}
    assert len(lengths) > 2, lengths
    for sample, (position, tokens, logprobs) in zip(found, plain_samples(ending), strict=True):
        assert (sample.action.position, list(sample.action.tokens)) == (position, tokens)
        assert sample.logprobs == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("architecture", ["random:gpt2", "random:llama"])
def test_a_likeliest_action_beside_them_changes_no_sample(architecture: str):
    policy = build(architecture)
    without = sampled(policy, prompts_of(policy, SAMPLES))
    beside = sampled(policy, prompts_of(policy, SAMPLES, greedy=True))
    greedy = sample_actions(policy, STATES, 1, Sampling(0.8, likeliest=True), torch.Generator())
    assert [[s.action for s in group[:-1]] for group in beside] == [[s.action for s in group] for group in without]
    assert [group[-1].action for group in beside] == [group[0].action for group in greedy]
    for group, (alone,) in zip(beside, greedy, strict=True):
        assert group[-1].logprobs == pytest.approx(alone.logprobs, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "compiler"), [("cpu", "eager"), pytest.param("cuda", "inductor", marks=pytest.mark.gpu)]
)
def test_a_compiled_step_draws_the_same(device: str, compiler: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model, "COMPILER", compiler)
    plain = build("random:llama")
    compiled = replace(plain, settings=plain.settings.model_copy(update={"compile": True}))
    plain.model.to(device)

    def draw(policy: Policy):
        generator = torch.Generator(device).manual_seed(4)
        return sample_prompts(policy, prompts_of(policy, SAMPLES, greedy=True), Sampling(0.8), generator)

    for group, expected in zip(draw(compiled), draw(plain), strict=True):
        assert [s.action for s in group] == [s.action for s in expected]
        for sample, other in zip(group, expected, strict=True):
            assert sample.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("architecture", ["random:gpt2", "random:llama"])
@torch.no_grad()
def test_flex_attention_gives_the_same_logprobs(architecture: str):
    policy = build(architecture)
    prompts = prompts_of(policy, SAMPLES)
    actions = [tuple(sample.action for sample in group) for group in sampled(policy, prompts)]
    groups = [PromptGroup(p.prompt, p.num_sentences, a) for p, a in zip(prompts, actions, strict=True)]
    packed = pack_groups(groups, policy.vocabulary, policy.pad_id)
    dense, flex = (
        action_logprobs(policy.model, packed, policy.vocabulary, 0.8, flex=flex).logprobs_GKT for flex in (False, True)
    )
    torch.testing.assert_close(flex, dense, atol=1e-4, rtol=0)


def wide_heads(tmp_path: Path) -> Policy:
    """A tiny policy whose attention heads are as wide as FlexAttention needs them."""
    folder = tmp_path / "wide"
    tokenizer = load_tokenizer(resolve("random:llama", None))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_policy(folder, PolicyConfig(max_new_tokens=6, temperature=0.8), WINDOW)


@pytest.mark.gpu
def test_flex_attention_gives_the_same_gradient(tmp_path: Path):
    policy = wide_heads(tmp_path)
    prompts = prompts_of(policy, SAMPLES)
    actions = [tuple(sample.action for sample in group) for group in sampled(policy, prompts)]
    groups = [PromptGroup(p.prompt, p.num_sentences, a) for p, a in zip(prompts, actions, strict=True)]
    packed = pack_groups(groups, policy.vocabulary, policy.pad_id).to("cuda")
    policy.model.to("cuda")
    gradients = []
    for flex in (False, True):
        policy.model.zero_grad()
        action_logprobs(policy.model, packed, policy.vocabulary, 0.8, flex=flex).logprobs_GKT.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-2, rtol=1e-2)


@pytest.mark.gpu
def test_flex_attention_needs_wide_heads(tmp_path: Path):
    narrow = build("random:llama", attention="auto")
    narrow.model.to("cuda")
    assert not narrow.uses_flex_attention
    with pytest.raises(PartnerError, match="at least 16"):
        replace(narrow, settings=narrow.settings.model_copy(update={"attention": "flex"})).uses_flex_attention  # noqa: B018
    wide = wide_heads(tmp_path)
    wide.model.to("cuda")
    assert replace(wide, settings=wide.settings.model_copy(update={"attention": "auto"})).uses_flex_attention


def test_flex_attention_is_for_gpus():
    assert not build("random:llama", attention="auto").uses_flex_attention
    with pytest.raises(PartnerError, match="use a GPU"):
        build("random:llama", attention="flex").uses_flex_attention  # noqa: B018 - a property that raises
