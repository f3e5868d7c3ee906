"""The coherence classifier: do two sentences belong to one response (PARTNER, section 4.3 and appendix)?

One encoder reads each sentence by itself; a small head compares the two pooled vectors and how the sentences are
written (`rewards.sentence_style`). The paper reads the pair in one pass of a larger encoder. Ours encodes each sentence
once however many pairs it is part of, in training (every pair of a batch is an example) and in use (every candidate
meets all other sentences of its response). The head sees only what does not change when the two sentences swap places.

Shapes: `_B` pair, `_D` hidden unit, `_F` feature of style.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.models.text_tokens import token_limit
from rewards.checkpoint import read_classifier, write_classifier
from rewards.encoder import encode_states, pad_id_of, tokenize
from rewards.sentence_style import NUM_FEATURES, style_matrix

KIND = "coherence"
PAIRS_PER_PASS = 512
"""Pairs whose sentence vectors are held at once."""
SIMILARITY_WEIGHT = 4.0
"""Weight of the cosine in a new head: sentence encoders come with a useful one, and training starts from it."""


class PairHead(nn.Module):
    """Reads vectors and style of two sentences and gives the log-odds that they belong together.

    Linear in the cosine and the features of style: what is to be learnt about topics goes into the encoder. A network
    over the vectors fits the training responses and does worse on others.
    """

    def __init__(self) -> None:
        """A new head: the cosine alone."""
        super().__init__()
        self.similarity = nn.Linear(1, 1)
        self.style = nn.Linear(3 * NUM_FEATURES, 1, bias=False)
        with torch.no_grad():
            self.similarity.weight.fill_(SIMILARITY_WEIGHT)
            self.similarity.bias.zero_()
            self.style.weight.zero_()

    def forward(self, first_BD: Tensor, second_BD: Tensor, first_BF: Tensor, second_BF: Tensor) -> Tensor:
        """Log-odds, `[B]`, from vectors and style of the first and the second sentences."""
        cosine_B = nn.functional.cosine_similarity(first_BD, second_BD, dim=-1)
        features = torch.cat([(first_BF - second_BF).abs(), first_BF * second_BF, first_BF + second_BF], dim=-1)
        log_odds: Tensor = (self.similarity(cosine_B.unsqueeze(-1)) + self.style(features)).squeeze(-1)
        return log_odds


class CoherenceModel(nn.Module):
    """The sentence encoder and the pair head."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        """A new head on a pretrained encoder."""
        super().__init__()
        self.encoder = encoder
        self.head = PairHead()


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
        style_NF = style_matrix(sentences, self.device)
        row = {sentence: index for index, sentence in enumerate(sentences)}
        first, second = [row[first] for first, _ in pairs], [row[second] for _, second in pairs]
        pooled_ND = torch.stack([state.mean(0) for state in states])
        log_odds_B = self.model.head(pooled_ND[first], pooled_ND[second], style_NF[first], style_NF[second])
        probabilities: Tensor = log_odds_B.float().sigmoid()
        return probabilities

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and settings into a folder that is being made."""
        settings = {"max_tokens": self.max_tokens}
        write_classifier(folder, KIND, self.model, self.tokenizer, self.model.encoder.config, settings)

    @classmethod
    def check(cls, folder: Path) -> None:
        """Check that `load` would read the folder, without reading a weight.

        Raises:
            PartnerError: As `load`.
        """
        stored = read_classifier(folder, KIND)
        with torch.device("meta"):
            stored.check_weights(CoherenceModel(stored.new_encoder()))

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
