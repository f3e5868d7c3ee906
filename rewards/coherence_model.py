"""The coherence classifier: do two sentences belong to one response (PARTNER, section 4.3 and appendix)?

One encoder reads each sentence by itself; a small head reads the two pooled vectors as `(u, v, |u−v|, u·v)`. The paper
reads the pair in one pass of a larger encoder. Ours encodes each sentence once however many pairs it is part of: every
candidate meets all other sentences of its response, and CPU time is scarce.

Shapes: `_B` pair, `_D` hidden unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rewards.checkpoint import read_classifier, write_classifier
from rewards.encoder import encode_states, pad_id_of, token_limit, tokenize

KIND = "coherence"
PAIRS_PER_PASS = 512
"""Pairs whose sentence vectors are held at once."""


class PairHead(nn.Module):
    """Reads two sentence vectors and gives the log-odds that they belong together."""

    def __init__(self, width: int, dropout: float) -> None:
        """A new head for sentence vectors of `width`."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(4 * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def forward(self, first_BD: Tensor, second_BD: Tensor) -> Tensor:
        """Log-odds, `[B]`."""
        # Unit length, as the sentence encoders were trained to compare directions.
        u_BD, v_BD = (nn.functional.normalize(x, dim=-1) * x.shape[-1] ** 0.5 for x in (first_BD, second_BD))
        features = torch.cat([u_BD, v_BD, (u_BD - v_BD).abs(), u_BD * v_BD], dim=-1)
        log_odds: Tensor = self.layers(features).squeeze(-1)
        return log_odds


class CoherenceModel(nn.Module):
    """The sentence encoder and the pair head."""

    def __init__(self, encoder: PreTrainedModel, dropout: float = 0.1) -> None:
        """A new head on a pretrained encoder."""
        super().__init__()
        self.encoder = encoder
        self.head = PairHead(int(encoder.config.hidden_size), dropout)


class CoherenceClassifier:
    """The model with its tokenizer: pairs of sentences in, probabilities out."""

    def __init__(self, model: CoherenceModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        """Take a model on its device over; each sentence is cut to its first `max_tokens` tokens."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = token_limit(model.encoder, max_tokens)
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Probability that the two sentences of each pair belong to one response, `[n_pairs]`."""
        found = [self._run(pairs[i : i + PAIRS_PER_PASS]) for i in range(0, len(pairs), PAIRS_PER_PASS)]
        return torch.cat(found).cpu() if found else torch.zeros(0)

    def _run(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        sentences = list(dict.fromkeys(sentence for pair in pairs for sentence in pair))
        states = encode_states(
            self.model.encoder,
            tokenize(self.tokenizer, sentences, self.max_tokens),
            pad_id_of(self.tokenizer),
            self.device,
        )
        pooled = {sentence: state.mean(0) for sentence, state in zip(sentences, states, strict=True)}
        first_BD = torch.stack([pooled[first] for first, _ in pairs])
        second_BD = torch.stack([pooled[second] for _, second in pairs])
        probabilities: Tensor = self.model.head(first_BD, second_BD).float().sigmoid()
        return probabilities

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and settings into a folder, all or nothing."""
        settings = {"max_tokens": self.max_tokens}
        write_classifier(folder, KIND, self.model, self.tokenizer, self.model.encoder.config, settings)

    @classmethod
    def load(cls, folder: Path, max_tokens: int, device: str = "cpu") -> CoherenceClassifier:
        """Read what `save` wrote.

        Raises:
            PartnerError: The folder does not hold a coherence classifier.
        """
        stored = read_classifier(folder, KIND)
        # New layers draw random numbers; the caller's stream must not depend on that.
        with torch.random.fork_rng(devices=[]):
            model = CoherenceModel(stored.new_encoder())
        stored.load_weights(model)
        return cls(model.to(device), stored.tokenizer, max_tokens)
