"""The loss of a language model on some tokens only: the head runs on these, and a chunk of them at a time.

Shapes: `_B` row, `_T` token, `_D` hidden unit, `_N` target token, `_V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus
from transformers import PreTrainedModel

HEAD_ROWS: Final = 256
"""Target tokens that go through the head at once: 50 MB of logits at a vocabulary of 50,000."""


class TargetLoss(nn.Module):
    """A causal language model as a map from a batch to its loss.

    A module of its own, so that a data-parallel wrapper sees one forward pass with a backward pass to synchronise.
    """

    def __init__(self, model: PreTrainedModel, contrast: float = 0.0) -> None:
        """Take a model whose logits are its head applied to its last hidden states (see `LanguageModel`).

        Args:
            model: The model.
            contrast: Weight of the contrastive term. With it, the second half of a batch's rows holds the first half's
                targets after wrong conditions.
        """
        super().__init__()
        self.model = model
        self._contrast = contrast

    def forward(self, ids_BT: Tensor, mask_BT: Tensor, rows_N: Tensor, columns_N: Tensor, targets_N: Tensor) -> Tensor:
        """Mean negative log-likelihood of the targets, in nats a token, and the contrastive term.

        That term is the mean of `−log P(true condition | target, the true and the wrong one)`, the two as likely
        beforehand: `softplus(log p(target | wrong) − log p(target | true))`.

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
        losses_N: Tensor = _TokenLosses.apply(hidden_ND, head.weight, targets_N)  # type: ignore[no-untyped-call]
        if self._contrast == 0.0:
            return losses_N.mean()
        sums_B = losses_N.new_zeros(len(ids_BT)).index_add(0, rows_N, losses_N)
        true_B, wrong_B = sums_B.chunk(2)
        likelihood = true_B.sum() / (rows_N < len(true_B)).sum()
        return likelihood + self._contrast * softplus(true_B - wrong_B).mean()


class _TokenLosses(torch.autograd.Function):
    """Cross-entropy of each token; its gradient is computed on the way, so that no logits are kept."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        losses_N = torch.empty(len(targets_N), device=hidden_ND.device)
        hidden_gradient_ND = torch.zeros_like(hidden_ND) if wants_hidden else None
        for chunk in _chunks(len(targets_N)):
            losses_N[chunk], gradient_NV = _losses_and_gradient(hidden_ND[chunk], weight_VD, targets_N[chunk])
            if hidden_gradient_ND is not None:
                hidden_gradient_ND[chunk] = (gradient_NV @ weight_VD).to(hidden_ND.dtype)
        # The head's gradient weighs each token by what comes back, which is not known yet.
        ctx.save_for_backward(hidden_gradient_ND, *((hidden_ND, weight_VD, targets_N) if wants_weight else ()))
        return losses_N

    @staticmethod
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_gradient_ND, *inputs = ctx.saved_tensors
        weight_gradient_VD = None
        if inputs:
            hidden_ND, weight_VD, targets_N = inputs
            weight_gradient_VD = torch.zeros_like(weight_VD)
            for chunk in _chunks(len(targets_N)):
                _, gradient_NV = _losses_and_gradient(hidden_ND[chunk], weight_VD, targets_N[chunk])
                weight_gradient_VD += (gradient_NV * gradient_N[chunk, None]).T @ hidden_ND[chunk].float()
        return (
            None
            if hidden_gradient_ND is None
            else gradient_N[:, None].to(hidden_gradient_ND.dtype) * hidden_gradient_ND,
            weight_gradient_VD,
            None,
        )


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + HEAD_ROWS) for start in range(0, count, HEAD_ROWS))


def _losses_and_gradient(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy `[N]` and its gradient by the logits `[N, V]`."""
    logits_NV = linear(hidden_ND, weight_VD).float()
    log_total_N1 = logits_NV.logsumexp(1, keepdim=True)
    chosen_N1 = targets_N.unsqueeze(1)
    losses_N = (log_total_N1 - logits_NV.gather(1, chosen_N1)).squeeze(1)
    # Softmax less one at the target, in the place of the logits.
    gradient_NV = logits_NV.sub_(log_total_N1).exp_()
    gradient_NV.scatter_add_(1, chosen_N1, torch.full_like(log_total_N1, -1.0))
    return losses_N, gradient_NV
