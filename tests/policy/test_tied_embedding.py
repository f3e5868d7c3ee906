"""The gradient of a tied table is the one that autograd would make."""

import copy

import pytest
import torch
from torch import nn

from partner_rl.config.schema import PolicyConfig
from partner_rl.models.sources import resolve
from partner_rl.policy.pretrained import load_policy
from partner_rl.policy.tied_embedding import TiedEmbedding, share_gradient_with_head


@pytest.mark.parametrize("architecture", ["random:gpt2", "random:llama"])
def test_the_gradient_is_dense_and_the_same(architecture: str):
    model = load_policy(resolve(architecture, None), PolicyConfig(), 3).model
    embedding = model.get_input_embeddings()
    if model.get_output_embeddings().weight is not embedding.weight:
        assert type(embedding) is nn.Embedding
        return
    assert type(embedding) is TiedEmbedding
    ids = torch.tensor([[5, 6, 5, 7, 300], [8, 8, 8, 9, 5]])

    def gradient() -> torch.Tensor:
        model.zero_grad()
        # Two passes: gradients of micro-batches add up.
        for _ in range(2):
            model(input_ids=ids, labels=ids).loss.backward()
        grad = embedding.weight.grad
        assert grad is not None
        assert not grad.is_sparse
        return grad.clone()

    ours = gradient()
    embedding.__class__ = nn.Embedding
    torch.testing.assert_close(ours, gradient(), atol=1e-6, rtol=1e-4)


def test_a_table_of_its_own_is_left_alone():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    model = Model()
    share_gradient_with_head(model)
    assert type(model.table) is nn.Embedding
    model.head.weight = model.table.weight
    share_gradient_with_head(model)
    assert type(model.table) is TiedEmbedding
    assert type(copy.deepcopy(model).table) is TiedEmbedding
