"""The log-probability that is trained is that of exactly the position and the tokens that were sampled."""

from dataclasses import replace

import pytest
import torch
from tokenizers import AddedToken

from partner_rl.config.schema import PolicyConfig
from partner_rl.config.section import LoraSection
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.policy.actions import ActionTokens, decode_action, encode_action
from partner_rl.policy.generate import Sampling, sample_actions
from partner_rl.policy.logprobs import PromptGroup, action_logits, action_logprobs, logprobs_of, pack_groups
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy, save_policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.positions import noop_position, position_mask
from partner_rl.types import EditAction, PartnerError, RewriteState

WINDOW = 3
STATES = (
    RewriteState("My exam is tomorrow and I cannot sleep at all", ("Try tea.", "You could read a book for a while.")),
    RewriteState("lost", ("ok.",)),
    RewriteState("Nobody at work talks to me any more", ()),
)


def build(architecture: str, lora: LoraSection | None = None, temperature: float = 0.8) -> Policy:
    settings = PolicyConfig(max_new_tokens=8, lora=lora, temperature=temperature)
    return load_policy(resolve(architecture, None), settings, WINDOW)


def draw(policy: Policy, samples: int = 6, sampling: Sampling | None = None, seed: int = 1):
    sampling = sampling or Sampling(policy.settings.temperature)
    return sample_actions(policy, STATES, samples, sampling, torch.Generator().manual_seed(seed))


def groups_of(policy: Policy, samples) -> list[PromptGroup]:
    return [
        PromptGroup(
            tuple(encode_prompt(policy.tokenizer, state, policy.settings)),
            len(state.span),
            tuple(s.action for s in group),
            None if group[0].kept is None else tuple(s.kept for s in group),
        )
        for state, group in zip(STATES, samples, strict=True)
    ]


def logprobs(policy: Policy, groups: list[PromptGroup]):
    packed = pack_groups(groups, policy.vocabulary, policy.pad_id)
    return action_logprobs(policy.model, packed, policy.vocabulary, policy.settings.temperature)


@pytest.mark.parametrize("architecture", ["random:gpt2", "random:llama"])
@pytest.mark.parametrize("lora", [None, LoraSection(rank=4)], ids=["full", "lora"])
def test_training_logprobs_equal_sampling_logprobs(architecture, lora):
    policy = build(architecture, lora)
    samples = draw(policy)
    out = logprobs(policy, groups_of(policy, samples))
    for g, group in enumerate(samples):
        for k, sample in enumerate(group):
            trained = out.logprobs_GKT[g, k][out.mask_GKT[g, k]]
            torch.testing.assert_close(trained, torch.tensor(sample.logprobs), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "sampling", [Sampling(0.8, top_k=7), Sampling(0.8, top_p=0.3), Sampling(0.8, 0.5, 40)], ids=str
)
def test_both_renormalise_over_the_words_that_truncation_kept(sampling):
    policy = build("random:llama")
    samples = draw(policy, sampling=sampling)
    groups = groups_of(policy, samples)
    out, whole = logprobs(policy, groups), logprobs(policy, [replace(g, kept=None) for g in groups])
    for g, group in enumerate(samples):
        for k, sample in enumerate(group):
            exists = out.mask_GKT[g, k]
            trained = out.logprobs_GKT[g, k][exists]
            torch.testing.assert_close(trained, torch.tensor(sample.logprobs), atol=1e-4, rtol=0)
            assert all(word in kept for word, kept in zip(sample.action.tokens, sample.kept, strict=True))
            # The position is drawn from all of them, the tokens from a part.
            assert trained[0].item() == pytest.approx(whole.logprobs_GKT[g, k, 0].item(), abs=1e-5)
            assert (trained[1:] > whole.logprobs_GKT[g, k][exists][1:]).all()


def test_truncated_logprobs_have_the_gradient_of_the_renormalised_distribution():
    policy = build("random:llama")
    groups = groups_of(policy, draw(policy, sampling=Sampling(0.8, top_k=5)))
    packed = pack_groups(groups, policy.vocabulary, policy.pad_id)
    logits = action_logits(policy.model, packed).detach().requires_grad_()
    out = logprobs_of(logits, packed, policy.vocabulary, 0.8)
    (gradient,) = torch.autograd.grad(out.logprobs_GKT[:, :, 1:].sum(), logits)
    is_kept = torch.zeros_like(gradient, dtype=torch.bool)
    for g, group in enumerate(groups):
        for column, kept in enumerate(words for action in group.kept for words in action):
            is_kept[g, 1 + column, list(kept)] = True
    assert not gradient[~is_kept].any()
    assert gradient[is_kept].any()
    # Moving all kept logits together changes nothing.
    torch.testing.assert_close(gradient.sum(2), torch.zeros(gradient.shape[:2]), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("sampling", [Sampling(0.8), Sampling(0.8, top_k=5)], ids=["whole", "truncated"])
def test_the_divergence_of_whole_distributions_is_their_kl(sampling):
    policy = build("random:llama")
    groups = groups_of(policy, draw(policy, sampling=sampling))
    packed = pack_groups(groups, policy.vocabulary, policy.pad_id)
    other = load_policy(resolve("random:llama", None), policy.settings, WINDOW)
    for parameter in other.model.parameters():
        parameter.mul_(1.3)
    reference = action_logits(other.model, packed)
    logits = action_logits(policy.model, packed)
    found = action_logprobs(policy.model, packed, policy.vocabulary, 0.8, reference_logits=reference).divergence_GKT
    ours, theirs = (policy.vocabulary.word_logits(each[:, 1:], 0.8).log_softmax(-1) for each in (logits, reference))
    for g, group in enumerate(groups):
        column = 0
        for k, action in enumerate(group.actions):
            for t in range(len(action.tokens)):
                here = ours[g, column]
                if group.kept is not None:
                    kept = list(group.kept[k][t])
                    here = torch.full_like(here, float("-inf"))
                    here[kept] = ours[g, column, kept].log_softmax(0)
                exists = here > float("-inf")
                kl = (here[exists].exp() * (here[exists] - theirs[g, column, exists])).sum()
                assert found[g, k, 1 + t].item() == pytest.approx(kl.item(), abs=1e-4)
                column += 1
    assert (found[:, :, 0] > 0).all()
    same = action_logprobs(policy.model, packed, policy.vocabulary, 0.8, reference_logits=logits).divergence_GKT
    assert same[:, :, 0].abs().max().item() < 1e-5


@pytest.mark.parametrize("architecture", ["random:gpt2", "random:llama"])
def test_a_shared_prompt_changes_neither_loss_nor_gradient(architecture):
    policy = build(architecture)
    groups = groups_of(policy, draw(policy))
    alone = [PromptGroup(g.prompt, g.num_sentences, (a,)) for g in groups for a in g.actions]

    def loss_and_gradient(batch):
        policy.model.zero_grad()
        loss = logprobs(policy, batch).logprobs_GKT.sum()
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in policy.model.parameters()])

    shared, shared_gradient = loss_and_gradient(groups)
    separate, separate_gradient = loss_and_gradient(alone)
    torch.testing.assert_close(shared, separate, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(shared_gradient, separate_gradient, atol=1e-3, rtol=1e-3)


def test_the_position_distribution_covers_valid_positions_only_and_sums_to_one():
    policy = build("random:llama")
    for state in STATES:
        prompt = tuple(encode_prompt(policy.tokenizer, state, policy.settings))
        valid = position_mask(len(state.span), WINDOW).nonzero()[0]
        actions = tuple(ActionTokens(int(p), ()) for p in valid)
        out = logprobs(policy, [PromptGroup(prompt, len(state.span), actions)])
        assert out.logprobs_GKT[0, :, 0].exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_sampled_positions_are_valid_and_a_noop_has_no_sentence():
    policy = build("random:llama")
    for state, group in zip(STATES, draw(policy, samples=64), strict=True):
        for sample in group:
            assert position_mask(len(state.span), WINDOW)[sample.action.position]
            assert len(sample.logprobs) == 1 + len(sample.action.tokens)
            if sample.action.position == noop_position(WINDOW):
                assert sample.action.tokens == ()
            else:
                assert 1 <= len(sample.action.tokens) <= policy.settings.max_new_tokens


def test_sentences_hold_no_special_or_position_token():
    policy = build("random:llama")
    banned = {*policy.vocabulary.special_ids, *policy.vocabulary.position_ids} - {policy.vocabulary.end_id}
    tokens = {t for group in draw(policy, samples=64) for s in group for t in s.action.tokens}
    assert tokens
    assert not tokens & banned


def test_sampled_frequencies_follow_the_log_probabilities():
    policy = build("random:llama", temperature=1.0)
    samples = sample_actions(policy, STATES[:1], 2000, Sampling(), torch.Generator().manual_seed(1))[0]
    position = samples[0].action.position
    share = sum(s.action.position == position for s in samples) / len(samples)
    expected = float(torch.tensor(samples[0].logprobs[0]).exp())
    assert share == pytest.approx(expected, abs=0.04)


def test_greedy_sampling_is_the_same_for_every_seed_and_sample():
    policy = build("random:gpt2")
    first, second = (draw(policy, 3, Sampling.greedy(), seed) for seed in (1, 2))
    assert first == second
    assert all(group[0].action == s.action for group in first for s in group)


def test_a_small_nucleus_draws_the_likeliest_tokens_and_any_position():
    policy = build("random:llama", temperature=1.0)
    narrow = draw(policy, 32, Sampling(top_p=1e-6))
    assert len({s.action.position for s in narrow[0]}) > 2
    by_position = {(g, s.action.position): s.action for g, group in enumerate(narrow) for s in group}
    assert all(by_position[g, s.action.position] == s.action for g, group in enumerate(narrow) for s in group)
    greedy = draw(policy, 1, Sampling.greedy())
    for g, (likeliest,) in enumerate(greedy):
        assert by_position.get((g, likeliest.action.position), likeliest.action) == likeliest.action


def test_rows_in_one_batch_do_not_influence_each_other():
    policy = build("random:gpt2")
    together = sample_actions(policy, STATES, 1, Sampling.greedy(), torch.Generator())
    apart = [sample_actions(policy, [s], 1, Sampling.greedy(), torch.Generator())[0] for s in STATES]
    assert [g[0].action for g in together] == [g[0].action for g in apart]


@pytest.mark.parametrize("lora", [None, LoraSection(rank=4)], ids=["full", "lora"])
def test_an_exported_policy_scores_the_same(tmp_path, lora):
    policy = build("random:llama", lora)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    groups = groups_of(policy, draw(policy))
    save_policy(policy, tmp_path)
    exported = load_policy(tmp_path, policy.settings.model_copy(update={"lora": None}), WINDOW)
    torch.testing.assert_close(
        logprobs(exported, groups).logprobs_GKT, logprobs(policy, groups).logprobs_GKT, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("architecture", ["random:gpt2", "random:llama"])
def test_without_its_adapters_a_policy_is_what_it_was(architecture):
    policy = build(architecture, LoraSection(rank=4))
    groups = groups_of(policy, draw(policy))
    start = logprobs(policy, groups).logprobs_GKT.detach()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert not torch.allclose(logprobs(policy, groups).logprobs_GKT, start, atol=1e-2)
    with policy.adapters_off():
        torch.testing.assert_close(logprobs(policy, groups).logprobs_GKT, start, atol=1e-5, rtol=0)


def test_adapters_train_the_position_tokens():
    policy = build("random:llama", LoraSection(rank=4))
    logprobs(policy, groups_of(policy, draw(policy))).logprobs_GKT[:, :, 0].sum().backward()
    gradients = {n: p.grad for n, p in policy.model.named_parameters() if p.requires_grad and "rows" in n}
    assert len(gradients) == 1
    assert all(g.abs().sum() > 0 for g in gradients.values())


def test_plain_transformers_loads_an_exported_policy(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_policy(build("random:gpt2", LoraSection(rank=4)), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)


def test_a_policy_of_another_window_is_refused(tmp_path):
    save_policy(build("random:gpt2"), tmp_path)
    for window in (WINDOW - 1, WINDOW + 1):
        with pytest.raises(PartnerError, match="another window"):
            load_policy(tmp_path, PolicyConfig(), window)


def test_an_edit_survives_the_way_through_tokens():
    policy = build("random:gpt2")
    edit = EditAction(1, "I am so sorry.")
    tokens = encode_action(policy, edit)
    assert tokens.tokens[-1] == policy.vocabulary.end_id or len(tokens.tokens) == policy.settings.max_new_tokens
    assert edit.sentence.startswith(decode_action(policy, tokens).sentence[:4])


def test_a_cut_off_sentence_has_no_end_token():
    policy = build("random:gpt2")
    tokens = encode_action(policy, EditAction(0, "word " * 50))
    assert len(tokens.tokens) == policy.settings.max_new_tokens
    assert policy.vocabulary.end_id not in tokens.tokens


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("I see you. And I th", "I see you."),
        ("no end at all", ""),
        ("It hurts! Why? Be", "It hurts! Why?"),
    ],
)
def test_a_cut_off_sentence_is_read_up_to_its_last_whole_one(written, read):
    policy = build("random:gpt2")
    words = tuple(policy.tokenizer(written, add_special_tokens=False).input_ids)
    assert decode_action(policy, ActionTokens(0, words)).sentence == read
    keeping = replace(policy, settings=policy.settings.model_copy(update={"unfinished": "keep"}))
    assert decode_action(keeping, ActionTokens(0, words)).sentence == (read or written)
    ended = ActionTokens(0, (*words, policy.vocabulary.end_id))
    assert decode_action(policy, ended).sentence == written


def test_a_long_post_keeps_its_end():
    policy = build("random:gpt2")
    state = RewriteState("filler " * 500 + "please help", ("ok.",))
    prompt = encode_prompt(policy.tokenizer, state, policy.settings)
    assert len(prompt) < policy.settings.max_seeker_tokens + 40
    assert "please help" in policy.tokenizer.decode(prompt)


def test_banned_words_have_no_probability():
    policy = build("random:llama")
    logits = torch.zeros(2, 5, policy.vocabulary.position_ids.stop)
    words = policy.vocabulary.word_logits(logits, 1.0)
    banned = [i for i in policy.vocabulary.special_ids if i != policy.vocabulary.end_id]
    assert torch.isinf(words[..., banned]).all()
    assert torch.isfinite(words[..., policy.vocabulary.end_id]).all()


def test_what_a_sentence_may_hold_is_there_when_it_is_read(tmp_path):
    """A special token that the tokenizer has no name for would vanish, and be sampled all the same."""
    tokenizer = load_tokenizer(resolve("random:llama", None))
    tokenizer.add_tokens([AddedToken("<repo_name>", special=True), AddedToken("<think>", special=False)])
    model = load_causal_lm(resolve("random:llama", None))
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    policy = load_policy(tmp_path, PolicyConfig(), WINDOW)
    vocabulary = policy.vocabulary
    names = policy.tokenizer.convert_ids_to_tokens(vocabulary.banned_ids)
    assert {"<repo_name>", "<think>", "<s>", "<pad>"} == set(names)
    words = {*range(vocabulary.first_position_id)} - {*vocabulary.banned_ids, vocabulary.end_id}
    assert all(policy.tokenizer.decode([word], skip_special_tokens=True) for word in words)


def test_an_empty_group_is_refused():
    policy = build("random:gpt2")
    with pytest.raises(ValueError, match="every group an action"):
        pack_groups([PromptGroup((1, 2), 1, ())], policy.vocabulary, 0)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_memory_saving_logprobs_equal_plain_autograd(temperature):
    from partner_rl.policy.logprobs import _TargetLogprobs

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 11, generator=generator, requires_grad=True)
    targets = torch.randint(3, 11, (2, 5), generator=generator)
    weights = torch.randn(2, 5, generator=generator)
    plain = logits / temperature
    plain = (
        plain.masked_fill(torch.arange(11) < 2, float("-inf")).log_softmax(-1).gather(2, targets[:, :, None])[..., 0]
    )
    (expected,) = torch.autograd.grad((plain * weights).sum(), logits)
    ours = _TargetLogprobs.apply(logits, targets, [0, 1], temperature)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), logits)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_bfloat16_stays_near_and_keeps_float32_weights(device):
    settings = PolicyConfig(max_new_tokens=8, dtype="bfloat16", lora=LoraSection(rank=4))
    policy = load_policy(resolve("random:llama", None), settings, WINDOW, device)
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    generator = torch.Generator(device).manual_seed(1)
    samples = sample_actions(policy, STATES, 6, Sampling(), generator)
    packed = pack_groups(groups_of(policy, samples), policy.vocabulary, policy.pad_id).to(device)
    with policy.autocast():
        out = action_logprobs(policy.model, packed, policy.vocabulary, 1.0)
    assert torch.isfinite(out.logprobs_GKT).all()
    out.logprobs_GKT.sum().backward()
    gaps = [
        (out.logprobs_GKT[g, k][out.mask_GKT[g, k]].detach().cpu() - torch.tensor(sample.logprobs)).abs().max().item()
        for g, group in enumerate(samples)
        for k, sample in enumerate(group)
    ]
    assert max(gaps) < 0.5
