"""Sentence embeddings for the specificity metric."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from partner_rl.evaluation.text_metrics import Embed
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.text_tokens import token_limit
from rewards.encoder import encode_states, in_pieces, pad_id_of, tokenize


def sentence_embedder(folder: Path, max_tokens: int, device: str = "cpu") -> Embed:
    """Loads an encoder whose mean token state is a text's embedding, as all-MiniLM-L6-v2 was trained for.

    Args:
        folder: A local folder of the encoder.
        max_tokens: Most tokens that the encoder reads at once, special tokens included. A longer text is read in pieces
            of about equal length; its embedding is the mean over the tokens of all of them.
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
        pieces = [in_pieces(text, limit) for text in tokenize(tokenizer, texts, None)]
        states = iter(encode_states(encoder, list(chain(*pieces)), pad_id_of(tokenizer), torch.device(device)))
        read = [torch.cat(list(islice(states, len(cut)))) for cut in pieces]
        return np.stack([states_TD.mean(0).float().cpu().numpy() for states_TD in read])

    return embed
