"""An embedding table that is also the head: its gradient is made once.

The gradient of a looked-up table is a table of zeros with a few rows filled in, which autograd then adds to the head's.
At 50,000 words this writes three tables in every backward pass, up to a tenth of its time on a CPU. Here the lookup's
part is the few rows alone, which are added to the head's gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class TiedEmbedding(nn.Embedding):
    """A lookup whose gradient is a sparse tensor; the head's gradient, which it is added to, makes the sum dense."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings `[..., D]`."""
        return nn.functional.embedding(ids, self.weight, sparse=True)


def share_gradient_with_head(model: Any) -> None:
    """Makes the embedding a `TiedEmbedding` if its table is trained and is the head's; else leaves it."""
    embedding = model.get_input_embeddings()
    is_tied = model.get_output_embeddings().weight is embedding.weight
    if is_tied and embedding.weight.requires_grad and type(embedding) is nn.Embedding:
        # In place, so that neither parameter names nor the tie change. `Embedding.sparse` would do the same, but tells
        # data parallelism to expect a sparse sum.
        embedding.__class__ = TiedEmbedding
