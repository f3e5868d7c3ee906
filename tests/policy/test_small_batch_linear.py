"""The turned product gives what a plain linear layer gives, and is used only where nothing is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from partner_rl.policy.small_batch_linear import MAX_ROWS, SmallBatchLinear, use_small_batch_linear


@pytest.mark.parametrize("shape", [(1, 1, 48), (32, 1, 48), (MAX_ROWS, 48), (4, MAX_ROWS, 48), (0, 48), (48,)])
def test_the_result_is_that_of_a_plain_layer(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 96, bias=False)
    rows = torch.randn(shape)
    expected = layer(rows)
    use_small_batch_linear(layer)
    with torch.no_grad():
        found = layer(rows)
    assert isinstance(layer, SmallBatchLinear)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_a_plain_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4, bias=False)
    rows = torch.randn(3, 8, requires_grad=True)
    layer(rows).square().sum().backward()
    expected = layer.weight.grad, rows.grad
    layer.weight.grad = rows.grad = None
    use_small_batch_linear(layer)
    layer(rows).square().sum().backward()
    assert torch.equal(layer.weight.grad, expected[0])
    assert torch.equal(rows.grad, expected[1])


def test_layers_with_a_bias_and_other_kinds_stay_as_they_are() -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Special(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    names = [name for name, _ in model.named_parameters()]
    use_small_batch_linear(model)
    assert [type(module) for module in model] == [nn.Linear, Special, SmallBatchLinear]
    assert [name for name, _ in model.named_parameters()] == names
