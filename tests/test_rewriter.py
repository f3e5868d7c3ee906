"""Tests of the rewriter with a tiny random policy."""

from __future__ import annotations

import pytest
import torch

from envs import text
from partner_rl.config.schema import EnvConfig, PolicyConfig
from partner_rl.models.sources import resolve
from partner_rl.policy.generate import Sampling
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy
from partner_rl.rewriter import Rewrite, RewriteError, Rewriter
from partner_rl.types import Example, PartnerError

ENV = EnvConfig(window=2, max_edits=2)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    torch.manual_seed(0)
    folder = resolve("random:gpt2", tmp_path_factory.mktemp("cache"))
    settings = PolicyConfig(max_seeker_tokens=16, max_sentence_tokens=16, max_new_tokens=6, unfinished="keep")
    return load_policy(folder, settings, ENV.window, "cpu")


def pair(number: int, response: object, seeker: object = "I cannot sleep.") -> Example:
    return Example(f"s{number}", f"r{number}", seeker, response)  # type: ignore[arg-type]


RESPONSES = (
    "Hang in there.",
    "Same here. It passes.  Try tea!\n\nOr milk.",
    "🙂",
    "<p>Hi &amp; bye</p>",
    "Qué pena. Ánimo.",
)


def test_each_row_has_a_rewrite_or_an_error_in_order(policy: Policy) -> None:
    pairs = [
        pair(0, RESPONSES[1]),
        pair(1, ""),
        pair(2, None),
        pair(3, "Fine.", seeker=" \u200b\n"),
        pair(4, "Half \ud83d here."),
        pair(5, RESPONSES[2]),
    ]
    results = Rewriter(policy, ENV, Sampling(), seed=1, batch_size=4).rewrite(pairs)
    assert [result.example for result in results] == pairs
    errors = {i: result.message for i, result in enumerate(results) if isinstance(result, RewriteError)}
    assert set(errors) == {1, 2, 3, 4}
    assert "response_post is empty" in errors[1]
    assert "NoneType" in errors[2]
    assert "seeker_post is empty" in errors[3]
    assert "UTF-8" in errors[4]


def test_edits_account_for_the_rewritten_response(policy: Policy) -> None:
    pairs = [pair(i, response) for i, response in enumerate(RESPONSES)]
    results = Rewriter(policy, ENV, Sampling(), seed=2).rewrite(pairs)
    for result in results:
        assert isinstance(result, Rewrite)
        assert result.request.candidates == tuple(edit.sentence for edit in result.edits)
        for edit in result.edits:
            assert edit.sentence in result.rewritten_response
        if not result.edits:
            assert result.rewritten_response == result.example.response_post


def test_leaving_a_response_alone_is_a_result(policy: Policy) -> None:
    pairs = [pair(i, RESPONSES[0], seeker=f"Post number {i}.") for i in range(40)]
    results = Rewriter(policy, ENV, Sampling(temperature=5.0), seed=0, batch_size=40).rewrite(pairs)
    left_alone = [result for result in results if isinstance(result, Rewrite) and not result.edits]
    assert left_alone
    assert {result.rewritten_response for result in left_alone} == {RESPONSES[0]}


def test_the_same_seed_repeats_and_full_batches_do_not_depend_on_later_rows(policy: Policy) -> None:
    pairs = [pair(i, response) for i, response in enumerate(RESPONSES)]
    rewriter = Rewriter(policy, ENV, Sampling(top_p=0.92, top_k=60), seed=3, batch_size=2)
    first = rewriter.rewrite(pairs)
    assert rewriter.rewrite(pairs) == first
    assert rewriter.rewrite(pairs[:4]) == first[:4]
    other = Rewriter(policy, ENV, Sampling(top_p=0.92, top_k=60), seed=4, batch_size=2).rewrite(pairs)
    assert other != first


def test_greedy_rewrites_do_not_depend_on_the_batch(policy: Policy) -> None:
    pairs = [pair(i, response) for i, response in enumerate(RESPONSES)]
    together = Rewriter(policy, ENV, Sampling.greedy(), batch_size=5).rewrite(pairs)
    alone = Rewriter(policy, ENV, Sampling.greedy(), batch_size=1).rewrite(pairs)
    assert together == alone


def test_a_long_response_is_worked_through(policy: Policy) -> None:
    response = " ".join(f"Sentence number {i} is here." for i in range(300))
    seen: list[tuple[int, int]] = []
    (result,) = Rewriter(policy, ENV, Sampling(), seed=0).rewrite(
        [pair(0, response)], lambda done, total: seen.append((done, total))
    )
    assert isinstance(result, Rewrite)
    assert len(result.edits) <= ENV.max_edits
    assert len(text.split(result.rewritten_response).sentences) >= 300 - ENV.max_edits
    assert seen == [(1, 1)]


def test_a_policy_of_another_window_is_refused(policy: Policy) -> None:
    with pytest.raises(PartnerError, match=r"env\.window=2"):
        Rewriter(policy, EnvConfig(window=3), Sampling())


def test_nothing_in_nothing_out(policy: Policy) -> None:
    assert Rewriter(policy, ENV, Sampling()).rewrite([]) == []
