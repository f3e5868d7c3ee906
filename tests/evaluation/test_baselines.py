"""Baselines on tiny models and on texts whose rewrites can be written down."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from envs import text
from launch.cli import app
from launch.run_folder.folder import RunFolder
from launch.training.evaluation import baseline_context
from partner_rl.config.load import load_config
from partner_rl.config.schema import BaselinesConfig, EnvConfig, EvaluationConfig, PolicyConfig, RunConfig
from partner_rl.config.section import LoraSection
from partner_rl.evaluation.baselines.base_model import Cut, chat_prompt
from partner_rl.evaluation.baselines.best_of_n import best
from partner_rl.evaluation.baselines.context import BaselineContext
from partner_rl.evaluation.baselines.generation import generate_answers, random_streams
from partner_rl.evaluation.baselines.make_baselines import BASELINES, baseline_names, make_baselines
from partner_rl.evaluation.baselines.prompted import SHOTS, rewriting_turns
from partner_rl.evaluation.baselines.seq2seq import source_ids, target_ids
from partner_rl.evaluation.baselines.seq2seq_training import WholeRewrite, train_seq2seq, whole_rewrite
from partner_rl.evaluation.baselines.template import CLOSING, OPENING, with_template
from partner_rl.evaluation.baselines.whole_response import (
    clean_answer,
    whole_response_rewrites,
)
from partner_rl.evaluation.component_scores import whole_response_request
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.policy.generate import Sampling, sample_actions
from partner_rl.policy.logprobs import PromptGroup, action_logprobs, pack_groups
from partner_rl.policy.pretrained import load_policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.progress import show_no_progress
from partner_rl.rewriter import Rewrite, Rewriter
from partner_rl.types import EditAction, Example, PartnerError, RewardBreakdown, RewriteState, ScoreRequest
from tests.models.vocabularies import qwen_like

PAIRS = [
    Example("s1", "r1", "I lost my job and I cannot sleep.", "Apply for others. Any friends?"),
    Example("s2", "r2", "nobody calls me", "Same here."),
    Example("s3", "r3", "My exam is tomorrow, and I have not learned anything at all!", "Try tea.\n\nThen sleep."),
]
CONFIG = RunConfig(
    env=EnvConfig(window=2),
    policy=PolicyConfig(max_seeker_tokens=12, max_sentence_tokens=12, max_new_tokens=5, unfinished="keep"),
    evaluation=EvaluationConfig(batch_size=2),
    baselines=BaselinesConfig(
        max_post_tokens=24,
        max_new_tokens=6,
        best_of=3,
        seq2seq_epochs=2,
        seq2seq_learning_rate=1e-2,
        seq2seq_lora=LoraSection(rank=4, alpha=8.0),
        seq2seq_batch_tokens=256,
    ),
)


class LongestIsBest:
    """Rewards by length."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[RewardBreakdown]:
        return [RewardBreakdown({"empathy": float(len(r.rewritten_response))}) for r in requests]


@pytest.fixture(scope="module")
def base_model() -> Path:
    return resolve("random:llama", None)


def context(base_model: Path, config: RunConfig = CONFIG, seed: int = 0) -> BaselineContext:
    def rewrite(folder: Path, samples: int, progress: object) -> list[list[ScoreRequest]]:
        policy = load_policy(folder, config.policy, config.env.window)
        return Rewriter(policy, config.env, Sampling(), seed, config.evaluation.batch_size).sample(PAIRS, samples)

    return BaselineContext(PAIRS, config, base_model, base_model, None, LongestIsBest(), rewrite, seed=seed)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("I'm sorry. How are you?", "I'm sorry. How are you?"),
        ('Here is the rewritten response:\n\n"I\'m sorry.\nTell us more."', "I'm sorry. Tell us more."),
        ("Reply: I hear you.", "I hear you."),
        ("1. Breathe.\n2. Call a friend.", "Breathe. Call a friend."),
        ('"Hi," she said. "Bye."', '"Hi," she said. "Bye."'),
        ("Response to stress: it varies.", "Response to stress: it varies."),
        (" \n\t\u200b", ""),
    ],
)
def test_an_answer_becomes_one_line(answer: str, expected: str) -> None:
    assert clean_answer(answer, cut_off=False) == expected


def test_an_answer_that_was_cut_off_ends_with_a_whole_sentence() -> None:
    assert clean_answer("I hear you. What hap", cut_off=True) == "I hear you."
    assert clean_answer("I hear", cut_off=True) == "I hear"
    assert clean_answer("I hear you. What hap", cut_off=False) == "I hear you. What hap"


def test_new_sentences_are_candidates_and_kept_ones_are_not() -> None:
    example = Example("s", "r", "Post.", "Go out. Go out. Eat well.")
    request = whole_response_request(example, "I am sorry. Go out. What happened?")
    assert request.candidates == ("I am sorry.", "What happened?")
    assert request.other_sentences == ("Go out.",)
    assert request.rewritten_response == "I am sorry. Go out. What happened?"
    # The original has it twice, the new response three times: the third one is new.
    assert whole_response_request(example, "Go out. Go out. Go out.").candidates == ("Go out.",)


def test_empty_answers_leave_the_original_and_are_counted() -> None:
    made = whole_response_rewrites(PAIRS, ["", "I hear you.", " \u200b"], "note")
    assert made.note == "note; 2 empty answers left unchanged"
    assert [r.rewritten_response for r in made.requests] == [
        PAIRS[0].response_post,
        "I hear you.",
        PAIRS[2].response_post,
    ]
    assert made.requests[0].candidates == ()
    assert whole_response_rewrites(PAIRS[1:2], ["Hi."], "note").note == "note"


def test_the_template_stands_around_the_response() -> None:
    request = with_template(PAIRS[0])
    assert request.rewritten_response == f"{OPENING} Apply for others. Any friends? {CLOSING}"
    assert request.other_sentences == ("Apply for others.", "Any friends?")
    assert with_template(replace(PAIRS[0], response_post="")).rewritten_response == f"{OPENING} {CLOSING}"
    for sentence in (OPENING, CLOSING):
        assert text.split(sentence).sentences == (sentence,)


def test_the_best_is_the_first_of_the_highest() -> None:
    a, b, c = (replace(with_template(PAIRS[0]), rewritten_response=name) for name in "abc")
    assert best([[a, b, c], [c, b, a]], [[1.0, 3.0, 2.0], [0.5, 0.5, 0.1]]) == [b, c]


def test_names_are_checked_and_ordered() -> None:
    assert baseline_names("all") == tuple(BASELINES)
    assert baseline_names("best_of_n, template,template") == ("template", "best_of_n")
    assert baseline_names("unchanged,warm_start") == (), "every evaluation holds these"
    with pytest.raises(PartnerError, match="did you mean template"):
        baseline_names("templat")
    with pytest.raises(PartnerError, match="no baseline is named"):
        baseline_names(",")


def test_every_baseline_rewrites_every_pair_and_repeats_itself(base_model: Path, caplog) -> None:
    names = [name for name in BASELINES if name != "seq2seq"]
    with caplog.at_level(logging.WARNING):
        systems = make_baselines(tuple(BASELINES), context(base_model))
    assert [system.name for system in systems] == names
    assert "evaluation.seq2seq" in caplog.text
    for system in systems:
        assert [r.original_response for r in system.requests] == [pair.response_post for pair in PAIRS]
        assert all(r.rewritten_response.strip() for r in system.requests)
        assert system.note
    assert make_baselines(names, context(base_model)) == systems
    by_name = {system.name: system for system in make_baselines(names, context(base_model, seed=1))}
    for system in systems:
        same = [r.rewritten_response for r in by_name[system.name].requests] == [
            r.rewritten_response for r in system.requests
        ]
        assert same == (system.name == "template")


def test_the_best_of_n_is_at_least_as_good_as_each_sample(base_model: Path) -> None:
    made = context(base_model)
    samples = made.rewrite(base_model, 3, lambda done, total: None)
    (system,) = make_baselines(["best_of_n"], made)
    assert [len(r.rewritten_response) for r in system.requests] == [
        max(len(r.rewritten_response) for r in group) for group in samples
    ]


def test_without_a_warm_start_its_baselines_are_left_out(base_model: Path, caplog) -> None:
    bare = replace(context(base_model), warm_start=None)
    assert make_baselines(["best_of_n"], bare) == []
    assert "no warm start" in caplog.text


def test_an_answer_does_not_depend_on_batch_size_and_order(base_model: Path) -> None:
    tokenizer, model = load_tokenizer(base_model), load_causal_lm(base_model)
    prompts = [tokenizer(pair.seeker_post).input_ids for pair in PAIRS]
    streams = random_streams(PAIRS, 8, seed=4)
    sampling = EvaluationConfig(batch_size=3)
    ends = [tokenizer.eos_token_id]

    def answers(order: list[int], batch_size: int) -> list[object]:
        settings = sampling.model_copy(update={"batch_size": batch_size})
        found = generate_answers(
            model, tokenizer, [prompts[i] for i in order], streams[order], settings, ends, lambda done, total: None
        )
        return [found[order.index(i)] for i in range(len(order))]

    assert answers([0, 1, 2], 3) == answers([2, 0, 1], 2) == answers([1, 2, 0], 1)
    assert np.array_equal(random_streams(PAIRS[1:], 8, seed=4), streams[1:])
    assert not np.array_equal(random_streams(PAIRS, 8, seed=5), streams)


def test_answers_follow_the_models_distribution(base_model: Path) -> None:
    """Of many answers of one token, each occurs as often as the model says."""
    tokenizer, model = load_tokenizer(base_model), load_causal_lm(base_model)
    prompt = tokenizer("I am so").input_ids
    with torch.no_grad():
        probabilities = model(torch.tensor([prompt])).logits[0, -1].softmax(-1).numpy()
    probabilities[tokenizer.eos_token_id] = 0.0
    count = 2000
    everybody = [Example(f"s{i}", f"r{i}", "", "") for i in range(count)]
    sampling = EvaluationConfig(top_p=1.0, top_k=0, batch_size=count)
    streams = random_streams(everybody, 1, seed=0)
    found = generate_answers(
        model, tokenizer, [prompt] * count, streams, sampling, [tokenizer.eos_token_id], lambda done, total: None
    )
    likeliest = int(probabilities.argmax())
    share = np.mean([answer.text == tokenizer.decode([likeliest]) for answer in found])
    expected = float(probabilities[likeliest] / probabilities.sum())
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)


def test_prompts_hold_the_examples_and_the_pair_in_one_line(base_model: Path) -> None:
    tokenizer = load_tokenizer(base_model)
    cut = Cut(tokenizer, 6)
    short = cut(replace(PAIRS[2], seeker_post="filler " * 50 + "please help", response_post="Try\n\ntea " * 30))
    assert short.seeker_post.endswith("lease help")
    assert Cut(tokenizer, 1)(replace(PAIRS[2], seeker_post="I am sad 😭")).seeker_post == ""
    assert "\n" not in short.response_post
    assert len(tokenizer(short.response_post, add_special_tokens=False).input_ids) <= 7
    turns = rewriting_turns(PAIRS[0])
    assert [role for role, _ in turns] == ["system", *["user", "assistant"] * len(SHOTS), "user"]
    prompt = tokenizer.decode(chat_prompt(tokenizer, turns))
    assert PAIRS[0].response_post in prompt
    assert prompt.endswith("Answer:")


@given(
    st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>", "system\n", "<think>", "</think>", " so", "tired.", "<|"]))
)
def test_control_tokens_of_a_chat_are_the_templates_alone(parts: list[str]) -> None:
    tokenizer = qwen_like()
    post = "".join(parts).strip()
    turns = [("system", "Be kind."), ("user", post), ("assistant", "<|im_end|>"), ("user", "x")]
    ids = chat_prompt(tokenizer, turns)
    starts, ends = (ids.count(tokenizer.convert_tokens_to_ids(name)) for name in ("<|im_start|>", "<|im_end|>"))
    assert (starts, ends) == (len(turns) + 1, len(turns))
    assert not {tokenizer.convert_tokens_to_ids(name) for name in ("<think>", "</think>")} & {*ids}
    assert f"user\n{post}<|im_end|>" in tokenizer.decode(ids)
    ordinary = [("system", "Be kind."), ("user", "I am so tired.")]
    messages = [{"role": role, "content": content} for role, content in ordinary]
    plain = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat_prompt(tokenizer, ordinary) == plain


@pytest.mark.parametrize("control", ["<s>", "</s>", "<pad>"])
def test_a_plain_prompt_and_a_target_hold_no_control_token(control: str) -> None:
    tokenizer = load_tokenizer(resolve("random:llama", None))
    pair = Cut(tokenizer, 40)(Example("s", "r", f"I {control} am", f"so {control}"))
    assert (pair.seeker_post, pair.response_post) == (f"I {control} am", f"so {control}")
    special = set(tokenizer.all_special_ids)
    assert not special & {*chat_prompt(tokenizer, [("user", pair.seeker_post)])}
    assert special & {*source_ids(tokenizer, pair)} == {tokenizer.bos_token_id}
    assert special & {*target_ids(tokenizer, pair.response_post, 40)} == {tokenizer.eos_token_id}


@pytest.mark.parametrize(
    ("position", "expected"),
    [(0, "I hear you. Go out. Eat."), (2, "Go out. Eat. I hear you."), (3, "I hear you. Eat."), (5, "Go out. Eat.")],
)
def test_warm_start_examples_as_whole_texts(position: int, expected: str) -> None:
    state = RewriteState("I am sad.", ("Go out.", "Eat."))
    made = whole_rewrite(state, EditAction(position, "I hear you."), window=2)
    assert made == WholeRewrite("I am sad.", "Go out. Eat.", expected)


def test_seq2seq_learns_what_the_examples_show(base_model: Path, tmp_path: Path) -> None:
    examples = [WholeRewrite(f"Post {i} is sad.", "Go out.", "I hear you. Go out.") for i in range(32)]
    settings = CONFIG.baselines.model_copy(update={"seq2seq_epochs": 8, "max_new_tokens": 24})
    seen: list[tuple[int, int]] = []
    report = train_seq2seq(
        examples[:24],
        examples[24:],
        base_model,
        settings,
        tmp_path / "model",
        seed=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert report.dev_perplexity[report.best_epoch] < 0.2 * report.dev_perplexity[0]
    assert seen[-1][0] == seen[-1][1]
    config = CONFIG.model_copy(update={"baselines": settings})
    (system,) = make_baselines(["seq2seq"], replace(context(base_model, config), seq2seq=tmp_path / "model"))
    assert len(system.requests) == len(PAIRS)


def test_seq2seq_without_examples_is_an_error(base_model: Path, tmp_path: Path) -> None:
    with pytest.raises(PartnerError, match="no examples"):
        train_seq2seq([], [], base_model, CONFIG.baselines, tmp_path / "model", seed=0)


def test_one_sample_of_the_rewriter_is_its_rewrite(base_model: Path) -> None:
    policy = load_policy(base_model, CONFIG.policy, CONFIG.env.window)
    rewriter = Rewriter(policy, CONFIG.env, Sampling(), seed=2, batch_size=2)
    rewrites = [r.request for r in rewriter.rewrite(PAIRS) if isinstance(r, Rewrite)]
    assert [one for (one,) in rewriter.sample(PAIRS, 1)] == rewrites
    several = rewriter.sample(PAIRS, 4)
    assert [len(group) for group in several] == [4, 4, 4]
    assert len({r.rewritten_response for group in several for r in group}) > len(PAIRS)
    with pytest.raises(PartnerError, match="response r: response_post is empty"):
        rewriter.sample([Example("s", "r", "Post.", "")], 2)


def test_without_a_display_nothing_is_said() -> None:
    with show_no_progress("anything") as report:
        report(1, 2)


def test_at_the_end_every_edit_follows_the_last_sentence(base_model: Path) -> None:
    env = EnvConfig(window=2, positions="end", max_edits=2)
    policy = load_policy(base_model, CONFIG.policy, env.window)
    pairs = [*PAIRS, Example("s4", "r4", "Help me.", "One is here. Two is here. Three is here. Four is here. Five.")]
    for result in Rewriter(policy, env, Sampling(), seed=0).rewrite(pairs):
        assert isinstance(result, Rewrite)
        own = len(text.split(result.example.response_post).sentences)
        assert result.request.other_sentences == text.split(result.example.response_post).sentences
        assert [edit.sentence_index for edit in result.edits] == list(range(own, own + len(result.edits)))


@pytest.mark.parametrize("lora", [None, LoraSection(rank=4)], ids=["full", "lora"])
def test_at_the_end_training_agrees_with_sampling(base_model: Path, lora: LoraSection | None) -> None:
    settings = CONFIG.policy.model_copy(update={"lora": lora})
    policy = load_policy(base_model, settings, window=2).with_positions("end")
    states = [RewriteState("I am sad.", ("Go out.", "Eat.")), RewriteState("Help.", ("No.",)), RewriteState("Hi.", ())]
    drawn = sample_actions(policy, states, 3, Sampling(), torch.Generator().manual_seed(0))
    groups = [
        PromptGroup(
            tuple(encode_prompt(policy.tokenizer, state, settings)), len(state.span), tuple(s.action for s in group)
        )
        for state, group in zip(states, drawn, strict=True)
    ]
    out = action_logprobs(policy.model, pack_groups(groups, policy.vocabulary, policy.pad_id), policy.vocabulary, 1.0)
    for g, group in enumerate(drawn):
        for k, sample in enumerate(group):
            assert sample.action.position == len(states[g].span)
            assert sample.logprobs[0] == 0.0
            trained = out.logprobs_GKT[g, k][out.mask_GKT[g, k]]
            torch.testing.assert_close(trained, torch.tensor(sample.logprobs), atol=1e-4, rtol=0)
    # Nothing is left to choose: no entropy, and no gradient through it that is not a number.
    assert out.position_entropy_G.abs().max() == 0.0
    out.logprobs_GKT.sum().backward()
    assert all(p.grad.isfinite().all() for p in policy.model.parameters() if p.grad is not None)


def test_the_command_trains_a_model_that_the_evaluation_uses(base_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "seq2seq"
    overrides = ["resources.driver_threads=1", "baselines.seq2seq_epochs=1", "baselines.max_new_tokens=6"]
    arguments = ["baselines", "train-seq2seq", "--preset", "smoke", "--data", "sample", "--output", str(output)]
    result = CliRunner().invoke(app, [*arguments, *overrides])
    assert result.exit_code == 0, result.output
    report = json.loads((output / "report.json").read_text())
    assert report["examples"] == 8
    assert len(report["train_loss"]) == 1
    # The context of an evaluation finds the model, the warm start and the base model by the run's configuration.
    config = load_config("smoke", [*overrides, f"warmstart.checkpoint={base_model}", f"evaluation.seq2seq={output}"])
    names = [name for name in BASELINES if name not in ("prompted", "dialogue")]
    made = baseline_context(config, RunFolder(tmp_path / "run"), PAIRS, LongestIsBest())
    assert [system.name for system in make_baselines(names, made)] == names


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = CliRunner().invoke(app, ["baselines", "train-seq2seq", "--data", "sample", "--output", str(tmp_path)])
    assert isinstance(result.exception, PartnerError)
    assert "holds something else" in str(result.exception)
