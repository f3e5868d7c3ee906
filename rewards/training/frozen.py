"""An encoder whose lowest layers are frozen, and so computed once for all epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from rewards.encoder import (
    EncodedText,
    encode_states,
    layer_stack,
    lowest_layers,
    num_layers,
    pad_ids,
    pad_states,
    run_upper_layers,
    state_batches,
)


class PartlyFrozenEncoder:
    """States of a fixed set of texts, with gradients to the encoder's upper layers only.

    The states below the first trained layer are kept, unpadded: 4 bytes times hidden size times tokens.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        texts: Sequence[EncodedText],
        frozen_layers: int,
        pad_id: int,
        advance: Callable[[], None],
    ) -> None:
        """Freeze the lowest layers and compute what they make of the texts.

        Args:
            encoder: The encoder, on the device to train on.
            texts: Every text that will be asked for.
            frozen_layers: Lowest layers, with the embeddings, that are not trained; more than there are freezes all;
                0 trains everything and keeps nothing.
            pad_id: Fills up short rows.
            advance: Called after each of `precompute_steps` passes.

        Raises:
            PartnerError: The encoder's layers cannot be told apart.
        """
        self.encoder = encoder
        self._texts = texts
        self._pad_id = pad_id
        self._frozen = min(frozen_layers, num_layers(encoder))
        self._device = next(encoder.parameters()).device
        self._lower: list[Tensor] = []
        if self._frozen == 0:
            return
        stack = layer_stack(encoder)
        trained = {id(p) for layer in list(stack.layer)[self._frozen :] for p in layer.parameters()}
        for parameter in encoder.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        encoder.train(False)
        with lowest_layers(encoder, self._frozen):
            self._lower = encode_states(encoder, texts, pad_id, self._device, advance)

    @property
    def frozen_layers(self) -> int:
        """Lowest layers that are not trained."""
        return self._frozen

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained; the pooler, which no state passes through, is not."""
        return [
            parameter
            for name, parameter in self.encoder.named_parameters()
            if parameter.requires_grad and not name.startswith("pooler.")
        ]

    def states(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Last hidden states `[B, T, D]` of some texts and their mask `[B, T]`."""
        if self._frozen == 0:
            ids_BT, mask_BT = pad_ids([self._texts[i] for i in indices], self._pad_id, self._device)
            states_BTD: Tensor = self.encoder(input_ids=ids_BT, attention_mask=mask_BT.long()).last_hidden_state
            return states_BTD, mask_BT
        lower_BTD, mask_BT = pad_states([self._lower[i] for i in indices])
        if self._frozen == num_layers(self.encoder):
            return lower_BTD, mask_BT
        return run_upper_layers(self.encoder, lower_BTD, mask_BT, self._frozen), mask_BT


def precompute_steps(texts: Sequence[EncodedText], frozen_layers: int) -> int:
    """Passes that `PartlyFrozenEncoder` makes over the texts at the start."""
    return sum(1 for _ in state_batches(texts)) if frozen_layers > 0 else 0
