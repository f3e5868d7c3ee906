"""The empathy classifier: EPITOME's bi-encoder (Sharma et al., EMNLP 2020, section 5).

A seeker encoder and a response encoder read the two posts; per mechanism the response's tokens attend over the
seeker's with one head, the result is added to them, and two heads read the sum: the level of the whole response and,
for each token, whether it belongs to the rationale.

Two choices differ from the paper. One response encoder serves the three mechanisms, each with its own attention and
heads, and they are trained together: a third of the memory and time of one model per mechanism, which matters because
the reward is asked for on every sampled response. And a response is pooled by the mean over its tokens, as the
sentence encoders that we start from were trained with, instead of by the first token.

Shapes: `_B` pair, `_T` response token, `_U` seeker token, `_D` hidden unit, `_M` mechanism, `_L` level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.types import MAX_LEVEL, MECHANISMS
from rewards.checkpoint import read_classifier, write_classifier
from rewards.encoder import (
    EncodedText,
    encode_states,
    mean_pool,
    pad_id_of,
    pad_states,
    token_limit,
    tokenize,
)

KIND = "empathy"
NUM_LEVELS = MAX_LEVEL + 1
ATTENTION_WIDTH = 128
"""Width of the attention's single head. Full-width projections of all tokens, once per mechanism, would cost more than
the rest of a small encoder."""
PAIRS_PER_PASS = 64
"""Pairs whose token states are held at once."""


@dataclass(frozen=True, slots=True)
class EmpathyLogits:
    """Unnormalised outputs.

    Attributes:
        levels_BML: Of each level of each mechanism.
        rationales_BTM2: Of each response token being outside (0) or inside (1) each mechanism's rationale.
    """

    levels_BML: Tensor
    rationales_BTM2: Tensor


class SeekerAttention(nn.Module):
    """Single-head attention of the response over the seeker's post, added to the response."""

    def __init__(self, width: int, dropout: float) -> None:
        """A new layer for states of `width`."""
        super().__init__()
        inner = min(width, ATTENTION_WIDTH)
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, response_BTD: Tensor, seeker_BUD: Tensor, seeker_mask_BU: Tensor) -> Tensor:
        """The response's states with what they attend to in the seeker's added, `[B, T, D]`."""
        attended_B1TD = scaled_dot_product_attention(
            self.query(response_BTD).unsqueeze(1),
            self.key(seeker_BUD).unsqueeze(1),
            self.value(seeker_BUD).unsqueeze(1),
            attn_mask=seeker_mask_BU[:, None, None, :],
        )
        out: Tensor = response_BTD + self.dropout(self.out(attended_B1TD.squeeze(1)))
        return out


class MechanismHead(nn.Module):
    """Attention, level head and rationale head of one mechanism."""

    def __init__(self, width: int, dropout: float) -> None:
        """New heads for states of `width`."""
        super().__init__()
        self.attention = SeekerAttention(width, dropout)
        self.level = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, NUM_LEVELS)
        )
        self.rationale = nn.Linear(width, 2)

    def forward(
        self, seeker_BUD: Tensor, seeker_mask_BU: Tensor, response_BTD: Tensor, response_mask_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Level logits `[B, L]` and rationale logits `[B, T, 2]`."""
        states_BTD = self.attention(response_BTD, seeker_BUD, seeker_mask_BU)
        return self.level(mean_pool(states_BTD, response_mask_BT)), self.rationale(states_BTD)


class EmpathyModel(nn.Module):
    """The two encoders and the three mechanisms' heads."""

    def __init__(self, seeker_encoder: PreTrainedModel, response_encoder: PreTrainedModel, dropout: float = 0.1):
        """New heads on two pretrained encoders of one architecture."""
        super().__init__()
        self.seeker_encoder = seeker_encoder
        self.response_encoder = response_encoder
        width = int(response_encoder.config.hidden_size)
        self.mechanisms = nn.ModuleList(MechanismHead(width, dropout) for _ in MECHANISMS)

    def forward(
        self, seeker_BUD: Tensor, seeker_mask_BU: Tensor, response_BTD: Tensor, response_mask_BT: Tensor
    ) -> EmpathyLogits:
        """Classify encoded pairs.

        Args:
            seeker_BUD: States of the seeker encoder.
            seeker_mask_BU: True on the seeker's tokens.
            response_BTD: States of the response encoder.
            response_mask_BT: True on the response's tokens.
        """
        outputs = [head(seeker_BUD, seeker_mask_BU, response_BTD, response_mask_BT) for head in self.mechanisms]
        return EmpathyLogits(
            levels_BML=torch.stack([levels for levels, _ in outputs], dim=1),
            rationales_BTM2=torch.stack([rationales for _, rationales in outputs], dim=2),
        )


@dataclass(frozen=True, slots=True)
class MechanismPrediction:
    """What the classifier says of one mechanism in one response.

    Attributes:
        level: The likeliest level, 0…2.
        expected_level: The mean level under `probabilities`.
        probabilities: Probability of each level.
        rationales: First and one-past-last character of each passage of the response that supports the level, in
            order; none at level 0.
    """

    level: int
    expected_level: float
    probabilities: tuple[float, float, float]
    rationales: tuple[tuple[int, int], ...]


EmpathyPrediction = tuple[MechanismPrediction, MechanismPrediction, MechanismPrediction]
"""One prediction per mechanism, in the order of `MECHANISMS`."""


class EmpathyClassifier:
    """The model with its tokenizer: pairs of posts in, levels and rationales out."""

    def __init__(self, model: EmpathyModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        """Take a model over.

        Args:
            model: The model, on the device that it is to run on.
            tokenizer: Tokenizer of both encoders.
            max_tokens: Each post is cut to its first this many tokens.
        """
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = token_limit(model.response_encoder, max_tokens)
        self.device = next(model.parameters()).device

    def level_probabilities(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Probability of each level, `[n_pairs, M, L]`, of (seeker post, response) pairs."""
        batches = [softmax(logits.levels_BML.float(), dim=-1) for _, logits in self._batches(pairs)]
        return torch.cat(batches).cpu() if batches else torch.zeros(0, len(MECHANISMS), NUM_LEVELS)

    def predict(self, pairs: Sequence[tuple[str, str]]) -> list[EmpathyPrediction]:
        """Levels, probabilities and rationales of (seeker post, response) pairs, in the order given."""
        predictions: list[EmpathyPrediction] = []
        for responses, logits in self._batches(pairs):
            probabilities_BML = softmax(logits.levels_BML.float(), dim=-1).cpu()
            inside_BTM = logits.rationales_BTM2.argmax(-1).bool().cpu()
            for row, response in enumerate(responses):
                first, second, third = (
                    _prediction(probabilities_BML[row, m], inside_BTM[row, :, m], response)
                    for m in range(len(MECHANISMS))
                )
                predictions.append((first, second, third))
        return predictions

    @torch.inference_mode()
    def _batches(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[EncodedText], EmpathyLogits]]:
        return [self._run(pairs[i : i + PAIRS_PER_PASS]) for i in range(0, len(pairs), PAIRS_PER_PASS)]

    def _run(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[EncodedText], EmpathyLogits]:
        pad_id = pad_id_of(self.tokenizer)
        seekers = list(dict.fromkeys(seeker for seeker, _ in pairs))
        seeker_states = dict(
            zip(
                seekers,
                encode_states(
                    self.model.seeker_encoder,
                    tokenize(self.tokenizer, seekers, self.max_tokens),
                    pad_id,
                    self.device,
                ),
                strict=True,
            )
        )
        responses = tokenize(self.tokenizer, [response for _, response in pairs], self.max_tokens)
        response_states = encode_states(self.model.response_encoder, responses, pad_id, self.device)
        logits = self.model(*pad_states([seeker_states[seeker] for seeker, _ in pairs]), *pad_states(response_states))
        return responses, logits

    def save(self, folder: Path) -> None:
        """Write model, tokenizer and settings into a folder, all or nothing."""
        settings = {"max_tokens": self.max_tokens}
        write_classifier(folder, KIND, self.model, self.tokenizer, self.model.response_encoder.config, settings)

    @classmethod
    def load(cls, folder: Path, max_tokens: int, device: str = "cpu") -> EmpathyClassifier:
        """Read what `save` wrote.

        Args:
            folder: The folder.
            max_tokens: Each post is cut to its first this many tokens.
            device: Where the model is to run.

        Raises:
            PartnerError: The folder does not hold an empathy classifier.
        """
        stored = read_classifier(folder, KIND)
        # New layers draw random numbers; the caller's stream must not depend on that.
        with torch.random.fork_rng(devices=[]):
            model = EmpathyModel(stored.new_encoder(), stored.new_encoder())
        stored.load_weights(model)
        return cls(model.to(device), stored.tokenizer, max_tokens)


def _prediction(probabilities_L: Tensor, inside_T: Tensor, response: EncodedText) -> MechanismPrediction:
    none, weak, strong = (float(p) for p in probabilities_L)
    level = int(probabilities_L.argmax())
    return MechanismPrediction(
        level=level,
        expected_level=weak + 2.0 * strong,
        probabilities=(none, weak, strong),
        rationales=rationale_spans(inside_T.tolist(), response) if level > 0 else (),
    )


def rationale_spans(inside: Sequence[bool], response: EncodedText) -> tuple[tuple[int, int], ...]:
    """Merge neighbouring rationale tokens into passages.

    Args:
        inside: Per token (padding may follow), whether it belongs to the rationale.
        response: The response; its special tokens never belong.

    Returns:
        First and one-past-last character of each passage, in order.
    """
    spans: list[tuple[int, int]] = []
    open_span = False
    for token, (start, end) in enumerate(response.offsets):
        chosen = inside[token] and not response.special[token] and end > start
        if chosen and open_span:
            spans[-1] = (spans[-1][0], end)
        elif chosen:
            spans.append((start, end))
        open_span = chosen
    return tuple(spans)
