"""Tests of the sentence embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from partner_rl.evaluation.embedding import sentence_embedder
from partner_rl.models.sources import resolve


def test_an_embedding_depends_on_its_own_text_alone(tmp_path: Path) -> None:
    embed = sentence_embedder(resolve("random:bert", tmp_path), max_tokens=32)
    texts = ["I lost my job.", "A much longer text with many more words than the other one has.", "🙂"]
    together = embed(texts)
    assert together.shape[0] == 3
    assert np.isfinite(together).all()
    for row, text in enumerate(texts):
        np.testing.assert_allclose(embed([text])[0], together[row], atol=1e-5)
