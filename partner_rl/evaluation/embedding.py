"""Sentence embeddings for the specificity metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from partner_rl.evaluation.metrics.specificity import Embed
from partner_rl.models.loading import load_encoder, load_tokenizer
from rewards.encoder import encode_states, pad_id_of, token_limit, tokenize


def sentence_embedder(folder: Path, max_tokens: int, device: str = "cpu") -> Embed:
    """Loads an encoder whose mean token state is a text's embedding, as all-MiniLM-L6-v2 was trained for.

    Args:
        folder: A local folder of the encoder.
        max_tokens: Each text is cut to its first this many tokens, special tokens included.
        device: Torch device.

    Returns:
        Texts → embeddings, shape `[N, D]`.

    Raises:
        PartnerError: The folder holds no encoder.
    """
    encoder = load_encoder(folder).to(device)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(folder)
    limit = token_limit(encoder, max_tokens)

    def embed(texts: Sequence[str]) -> npt.NDArray[np.floating]:
        encoded = tokenize(tokenizer, texts, limit)
        states = encode_states(encoder, encoded, pad_id_of(tokenizer), torch.device(device))
        return np.stack([state.mean(0).float().cpu().numpy() for state in states])

    return embed
