"""Tests of the sentence embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from partner_rl.evaluation.embedding import sentence_embedder
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.sources import resolve
from rewards.encoder import encode_states, in_pieces, tokenize


def test_an_embedding_depends_on_its_own_text_alone(tmp_path: Path) -> None:
    embed = sentence_embedder(resolve("random:bert", tmp_path), max_tokens=32)
    texts = ["I lost my job.", "A much longer text with many more words than the other one has.", "🙂"]
    together = embed(texts)
    assert together.shape[0] == 3
    assert np.isfinite(together).all()
    for row, text in enumerate(texts):
        np.testing.assert_allclose(embed([text])[0], together[row], atol=1e-5)


def test_the_end_of_a_long_text_is_read(tmp_path: Path) -> None:
    folder = resolve("random:bert", tmp_path)
    long = " ".join(f"Word {number} follows." for number in range(60))
    for limit in (32, 10_000):
        embed = sentence_embedder(folder, max_tokens=limit)
        end_changed, whole = embed([f"{long} I lost my job.", long])
        assert np.abs(end_changed - whole).max() > 1e-4


def test_a_text_in_pieces_is_the_mean_over_all_its_tokens(tmp_path: Path) -> None:
    folder = resolve("random:bert", tmp_path)
    [whole] = tokenize(load_tokenizer(folder), ["I lost my job. " * 9], None)
    pieces = in_pieces(whole, 32)
    assert len(pieces) > 2
    assert max(len(piece.ids) for piece in pieces) <= 32
    assert max(len(piece.ids) for piece in pieces) - min(len(piece.ids) for piece in pieces) <= 1
    assert all((piece.ids[0], piece.ids[-1]) == (whole.ids[0], whole.ids[-1]) for piece in pieces)
    assert sum((piece.ids[1:-1] for piece in pieces), ()) == whole.ids[1:-1]
    states = encode_states(load_encoder(folder), pieces, 0, torch.device("cpu"))
    expected = torch.cat(states).mean(0).numpy()
    np.testing.assert_allclose(sentence_embedder(folder, 32)(["I lost my job. " * 9])[0], expected, atol=1e-5)
