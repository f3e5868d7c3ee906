"""The loss of a language model on some tokens only: the head runs on these, and a chunk of them at a time.

Shapes: `_B` row, `_T` token, `_D` hidden unit, `_N` target token, `_V` vocabulary.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

HEAD_ROWS: Final = 256
"""Target tokens that go through the head at once: 50 MB of logits at a vocabulary of 50,000."""


class TargetLoss(nn.Module):
    """A causal language model as a map from a batch to its loss.

    A module of its own, so that a data-parallel wrapper sees one forward pass with a backward pass to synchronise.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a model whose logits are its head applied to its last hidden states (see `LanguageModel`)."""
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, mask_BT: Tensor, rows_N: Tensor, columns_N: Tensor, targets_N: Tensor) -> Tensor:
        """Mean negative log-likelihood of the targets, in nats a token.

        Args:
            ids_BT: Token ids, padded on the right.
            mask_BT: True on tokens.
            rows_N: Per target token, its row.
            columns_N: Per target token, the column whose hidden state predicts it.
            targets_N: The target tokens.
        """
        body: Any = self.model.base_model
        head: Any = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        positions_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device).expand_as(ids_BT)
        hidden_BTD = body(
            input_ids=ids_BT, attention_mask=mask_BT.long(), position_ids=positions_BT, use_cache=False
        ).last_hidden_state
        hidden_ND = hidden_BTD[rows_N, columns_N]
        total: Tensor = _SummedLoss.apply(hidden_ND, head.weight, targets_N)  # type: ignore[no-untyped-call]
        return total / len(targets_N)


class _SummedLoss(torch.autograd.Function):
    """Cross-entropy summed over tokens, gradients computed on the way, so that no logits are kept or computed twice."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        total = torch.zeros((), device=hidden_ND.device)
        hidden_gradient_ND = torch.zeros_like(hidden_ND) if wants_hidden else None
        weight_gradient_VD = torch.zeros_like(weight_VD) if wants_weight else None
        for start in range(0, len(targets_N), HEAD_ROWS):
            chunk = slice(start, start + HEAD_ROWS)
            logits_NV = linear(hidden_ND[chunk], weight_VD).float()
            log_total_N1 = logits_NV.logsumexp(1, keepdim=True)
            chosen_N1 = targets_N[chunk].unsqueeze(1)
            total += (log_total_N1 - logits_NV.gather(1, chosen_N1)).sum()
            # Softmax less one at the target, in the place of the logits.
            gradient_NV = logits_NV.sub_(log_total_N1).exp_()
            gradient_NV.scatter_add_(1, chosen_N1, torch.full_like(log_total_N1, -1.0))
            if hidden_gradient_ND is not None:
                hidden_gradient_ND[chunk] = (gradient_NV @ weight_VD).to(hidden_ND.dtype)
            if weight_gradient_VD is not None:
                weight_gradient_VD += gradient_NV.T @ hidden_ND[chunk].float()
        ctx.save_for_backward(hidden_gradient_ND, weight_gradient_VD)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_gradient_ND, weight_gradient_VD = ctx.saved_tensors
        return (
            None if hidden_gradient_ND is None else gradient * hidden_gradient_ND,
            None if weight_gradient_VD is None else gradient * weight_gradient_VD,
            None,
        )
