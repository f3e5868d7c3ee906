"""Drawing by chunks is drawing from the softmax."""

import pytest
import torch

from partner_rl.policy import sampling as module
from partner_rl.policy.sampling import sample_tokens
from partner_rl.types import PartnerError


def logits(rows: int, words: int, scale: float = 3.0) -> torch.Tensor:
    values = torch.randn(rows, words, generator=torch.Generator().manual_seed(0)) * scale
    values[:, ::7] = float("-inf")
    return values


def everything_drawn(values: torch.Tensor, greedy: torch.Tensor | None = None, top_p: float = 1.0, top_k: int = 0):
    greedy = torch.zeros(len(values), dtype=torch.bool) if greedy is None else greedy
    return sample_tokens(values, greedy, top_p=top_p, top_k=top_k, generator=torch.Generator().manual_seed(5))


def drawn(values: torch.Tensor, greedy: torch.Tensor | None = None, top_p: float = 1.0, top_k: int = 0):
    result = everything_drawn(values, greedy, top_p, top_k)
    return result.tokens_N, result.logprobs_N


@pytest.mark.parametrize("words", [3, 512, 1300, 2048])
def test_a_word_is_where_the_cumulative_distribution_passes_the_uniform_number(words):
    values = logits(200, words)
    found, logprobs = drawn(values)
    uniform = torch.rand(200, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    cumulative = values.double().softmax(1).cumsum(1)
    assert found.tolist() == (cumulative <= uniform).sum(1).tolist()
    torch.testing.assert_close(logprobs, values.log_softmax(1).gather(1, found[:, None])[:, 0], atol=1e-5, rtol=0)


def test_words_without_weight_are_never_drawn_even_at_the_ends():
    values = torch.full((2000, 1100), float("-inf"))
    values[:, [1, 600, 1030]] = 0.0
    found, logprobs = drawn(values)
    assert set(found.tolist()) == {1, 600, 1030}
    torch.testing.assert_close(logprobs, torch.full((2000,), -torch.tensor(3.0).log().item()))


def test_a_uniform_number_next_to_one_draws_the_last_word_with_weight(monkeypatch):
    values = torch.full((4, 1100), float("-inf"))
    values[:, [1, 600]] = 0.0
    monkeypatch.setattr(module.torch, "rand", lambda *shape, **_: torch.full(shape, 1.0, dtype=torch.float64))
    assert drawn(values)[0].tolist() == [600] * 4
    assert set(drawn(values, top_k=5)[0].tolist()) <= {1, 600}


def test_likeliest_rows_use_no_random_numbers():
    values = logits(6, 700)
    greedy = torch.tensor([True, False, True, False, False, True])
    found, logprobs = drawn(values, greedy)
    alone, _ = drawn(values[~greedy])
    assert found[~greedy].tolist() == alone.tolist()
    assert found[greedy].tolist() == values.argmax(1)[greedy].tolist()
    assert logprobs[greedy].tolist() == pytest.approx(values.log_softmax(1).max(1).values[greedy].tolist(), abs=1e-5)


def test_truncation_tells_what_it_drew_from_and_renormalises_over_it():
    values = logits(500, 700)[:1].repeat(500, 1)
    order = values[0].argsort(descending=True).tolist()
    for limits, count in (
        ({"top_k": 3}, 3),
        ({"top_p": 0.6}, int((values[0].softmax(0)[order].cumsum(0) < 0.6).sum()) + 1),
    ):
        result = everything_drawn(values, **limits)
        assert result.kept_NW is not None
        assert result.kept_NW.tolist() == [order[:count]] * 500
        assert set(result.tokens_N.tolist()) <= set(order[:count])
        among_kept = values[:, order[:count]].log_softmax(1)
        place_N = (result.kept_NW == result.tokens_N[:, None]).int().argmax(1)
        expected = among_kept.gather(1, place_N[:, None])[:, 0]
        torch.testing.assert_close(result.logprobs_N, expected, atol=1e-5, rtol=0)
    assert set(drawn(values, top_p=1e-6)[0].tolist()) == {order[0]}
    assert everything_drawn(values).kept_NW is None


def test_truncation_never_keeps_banned_words_and_pads_rows_that_keep_fewer():
    values = torch.full((2, 40), float("-inf"))
    values[0, [3, 9]] = torch.tensor([2.0, 1.0])
    values[1, 5:20] = 0.0
    kept = everything_drawn(values, top_k=10).kept_NW
    assert kept is not None
    assert kept[0].tolist() == [3, 9] + [-1] * 8
    assert set(kept[1].tolist()) <= set(range(5, 20))


def test_a_likeliest_row_beside_truncated_ones_has_the_log_probability_of_the_whole_distribution():
    values = logits(2, 300)
    found, logprobs = drawn(values, torch.tensor([True, False]), top_k=2)
    assert logprobs[0].item() == pytest.approx(values[0].log_softmax(0).max().item(), abs=1e-5)
    assert found[0].item() == values[0].argmax().item()


def test_a_mass_below_zero_draws_the_first_word_with_weight():
    cumulative = torch.tensor([[0.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
    for mass in (-1e-12, 0.0):
        assert module._first_above(cumulative, torch.tensor([[mass]], dtype=torch.float64)).item() == 2


@pytest.mark.reported
@pytest.mark.parametrize("truncation", [{}, {"top_k": 3}, {"top_p": 0.5}])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_say_that_the_policy_has_diverged(value, truncation):
    values = logits(3, 600)
    values[1, 5] = value
    with pytest.raises(PartnerError, match=r"diverged.*learning_rate"):
        everything_drawn(values, **truncation)
