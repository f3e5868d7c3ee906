"""The empathy classifier: EPITOME's bi-encoder (Sharma et al., EMNLP 2020, section 5).

A seeker encoder and a response encoder read the two posts; per mechanism the response's tokens attend over the
seeker's with one head, the result is added to them, and two heads read the sum: the level of the whole response and,
for each token, whether it belongs to the rationale.

Two choices differ from the paper. One response encoder serves the three mechanisms, each with its own attention and
heads, and they are trained together: a third of the memory and time of one model per mechanism, which matters because
the reward is asked for on every sampled response. And a response is pooled by the mean over its tokens, as the
sentence encoders that we start from were trained with, instead of by the first token. The levels' logits are mixed with
what a regression on n-grams says (`rewards.ngrams`).

Shapes: `_B` pair, `_T` response token, `_U` seeker token, `_D` hidden unit, `_M` mechanism, `_L` level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, scaled_dot_product_attention, softmax
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from partner_rl.models.loading import load_registered, load_tokenizer, quiet_transformers
from partner_rl.models.text_tokens import token_limit
from partner_rl.types import MECHANISMS, NUM_LEVELS, PartnerError
from rewards.encoder import (
    EncodedText,
    encode_states,
    mean_pool,
    pad_id_of,
    pad_states,
    tokenize,
)
from rewards.ngrams import NgramLevels

KIND = "empathy"
ATTENTION_WIDTH = 128
"""Width of the attention's single head. Full-width projections of all tokens, once per mechanism, would cost more than
the rest of a small encoder."""
PAIRS_PER_PASS = 64
"""Pairs whose token states are held at once."""
SEEKER_TOKENS = 64
"""Tokens of a seeker's post that the response attends to (paper: 64): what the post is about comes early."""


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


class EmpathyModelConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration of an `EmpathyModel`.

    Attributes:
        encoder: Configuration of both encoders, as `to_dict` gives it.
        max_tokens: Tokens of each post that the model was trained on.
        level_offsets: Per mechanism and level, what the skew of the training loss adds to the level's logit: the
            logarithm of its weight. Without it the logits are those of the real shares of the levels.
        ngram_weight: Share of the n-gram regression in the levels' logits; 0 leaves the encoders alone.
        temperatures: Per mechanism, what the logits are divided by for calibrated probabilities.
    """

    model_type = "partner-rl-empathy"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        head_dropout: float = 0.1,
        max_tokens: int = 128,
        ngram_weight: float = 0.0,
        level_offsets: Sequence[Sequence[float]] | None = None,
        temperatures: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        """See the class; defaults are no offsets and temperatures of one."""
        super().__init__(**kwargs)
        self.encoder = encoder or {}
        self.head_dropout = head_dropout
        self.max_tokens = max_tokens
        self.ngram_weight = ngram_weight
        self.level_offsets = [list(row) for row in level_offsets or [[0.0] * NUM_LEVELS] * len(MECHANISMS)]
        self.temperatures = list(temperatures or [1.0] * len(MECHANISMS))


class EmpathyModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The two encoders and the three mechanisms' heads."""

    config: EmpathyModelConfig
    config_class = EmpathyModelConfig
    base_model_prefix = "empathy"

    def __init__(self, config: EmpathyModelConfig) -> None:
        """A model of this configuration with new weights."""
        super().__init__(config)
        encoder = dict(config.encoder)
        encoder_config = AutoConfig.for_model(encoder.pop("model_type"), **encoder)
        self.seeker_encoder: PreTrainedModel = AutoModel.from_config(encoder_config)  # type: ignore[no-untyped-call]
        self.response_encoder: PreTrainedModel = AutoModel.from_config(encoder_config)  # type: ignore[no-untyped-call]
        width = int(encoder_config.hidden_size)
        self.mechanisms = nn.ModuleList(MechanismHead(width, config.head_dropout) for _ in MECHANISMS)
        self.ngrams = NgramLevels()
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def on_encoder(cls, encoder: PreTrainedModel, max_tokens: int, head_dropout: float = 0.1) -> EmpathyModel:
        """New heads on two copies of a pretrained encoder."""
        settings = encoder.config.to_dict()
        settings.pop("_name_or_path", None)
        model = cls(EmpathyModelConfig(encoder=settings, head_dropout=head_dropout, max_tokens=max_tokens))
        model.seeker_encoder.load_state_dict(encoder.state_dict())
        model.response_encoder.load_state_dict(encoder.state_dict())
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The layers of the heads keep torch's own initialisation; the encoders bring theirs.
        return

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

    def with_ngrams(self, logits: EmpathyLogits, responses: Sequence[str]) -> EmpathyLogits:
        """The encoders' logits mixed with what the n-grams of the responses say."""
        share = float(self.config.ngram_weight)
        if share == 0.0:
            return logits
        levels_BML = log_softmax(logits.levels_BML.float(), dim=-1)
        return replace(logits, levels_BML=(1.0 - share) * levels_BML + share * self.ngrams(responses))

    def calibrated(self, levels_BML: Tensor) -> Tensor:
        """Probability of each level, `[B, M, L]`, from the levels' logits: offsets taken off, then the temperature."""
        offsets_ML = torch.tensor(self.config.level_offsets, device=levels_BML.device)
        temperatures_M1 = torch.tensor(self.config.temperatures, device=levels_BML.device).unsqueeze(-1)
        probabilities_BML: Tensor = softmax((levels_BML.float() - offsets_ML) / temperatures_M1, dim=-1)
        return probabilities_BML


# Reading a folder by its config.json needs the name; registering twice (a reloaded module) is no mistake.
AutoConfig.register(EmpathyModelConfig.model_type, EmpathyModelConfig, exist_ok=True)
AutoModel.register(EmpathyModelConfig, EmpathyModel, exist_ok=True)


@dataclass(frozen=True, slots=True)
class MechanismPrediction:
    """What the classifier says of one mechanism in one response.

    Attributes:
        level: The level that the classifier decides for, 0…2: the largest logit. The training loss weighs rare levels
            more, so that this is a rarer level sooner than the likeliest one would be.
        expected_level: The mean level under `probabilities`.
        probabilities: Calibrated probability of each level.
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
        """Take a model over."""
        self.model = model
        self.model.train(False)
        self.tokenizer = tokenizer
        self.max_tokens = token_limit(model.response_encoder, max_tokens)
        self.device = next(model.parameters()).device

    def fits(self, response: str) -> bool:
        """Whether a response is read whole."""
        return len(tokenize(self.tokenizer, [response], self.max_tokens + 1)[0].ids) <= self.max_tokens

    def level_probabilities(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Calibrated probability of each level, `[n_pairs, M, L]`, of (seeker post, response) pairs."""
        return self.model.calibrated(self.level_logits(pairs))

    def level_logits(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Logits of the levels, `[n_pairs, M, L]`; the largest is the decision."""
        batches = [logits.levels_BML.float() for _, logits in self._batches(pairs)]
        return torch.cat(batches).cpu() if batches else torch.zeros(0, len(MECHANISMS), NUM_LEVELS)

    def predict(self, pairs: Sequence[tuple[str, str]]) -> list[EmpathyPrediction]:
        """Levels, probabilities and rationales of (seeker post, response) pairs, in the order given."""
        predictions: list[EmpathyPrediction] = []
        for responses, logits in self._batches(pairs):
            probabilities_BML = self.model.calibrated(logits.levels_BML).cpu()
            levels_BM = logits.levels_BML.argmax(-1).cpu()
            inside_BTM = logits.rationales_BTM2.argmax(-1).bool().cpu()
            for row, response in enumerate(responses):
                first, second, third = (
                    _prediction(int(levels_BM[row, m]), probabilities_BML[row, m], inside_BTM[row, :, m], response)
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
                    tokenize(self.tokenizer, seekers, min(self.max_tokens, SEEKER_TOKENS)),
                    pad_id,
                    self.device,
                ),
                strict=True,
            )
        )
        responses = tokenize(self.tokenizer, [response for _, response in pairs], self.max_tokens)
        response_states = encode_states(self.model.response_encoder, responses, pad_id, self.device)
        logits = self.model(*pad_states([seeker_states[seeker] for seeker, _ in pairs]), *pad_states(response_states))
        return responses, self.model.with_ngrams(logits, [response for _, response in pairs])

    def save(self, folder: Path) -> None:
        """Write model and tokenizer, in Hugging Face's layout, into a folder that is being made."""
        with quiet_transformers():
            self.model.save_pretrained(str(folder))
            self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def check(cls, folder: Path) -> None:
        """Check that `from_pretrained` would read the folder, without reading a weight.

        Raises:
            PartnerError: As `from_pretrained`.
        """
        load_registered(EmpathyModel, _with_classifier(folder), device_map="meta")
        load_tokenizer(folder)

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, max_tokens: int | None = None, device: str = "cpu"
    ) -> EmpathyClassifier:
        """Read what `save` wrote.

        Args:
            folder: The classifier's folder.
            max_tokens: Each post is cut to its first this many tokens; None for as many as in training.
            device: `cpu` or `cuda`.

        Raises:
            PartnerError: The folder does not hold an empathy classifier.
        """
        path = _with_classifier(Path(folder))
        # New layers draw random numbers before they are overwritten; the caller's stream must not depend on that.
        with torch.random.fork_rng(devices=[]):
            model = load_registered(EmpathyModel, path)
        nn.Module.to(model, device)
        return cls(model, load_tokenizer(path), max_tokens or model.config.max_tokens)


def _with_classifier(folder: Path) -> Path:
    """The folder, if it looks like a classifier's.

    Raises:
        PartnerError: It holds no configuration.
    """
    if not (folder / "config.json").is_file():
        raise PartnerError(
            f"no {KIND} classifier in {folder}: name a folder that `partner-rl rewards train {KIND}` has written; "
            f"a run trains its own where rewards.{KIND}.checkpoint is null"
        )
    return folder


def _prediction(level: int, probabilities_L: Tensor, inside_T: Tensor, response: EncodedText) -> MechanismPrediction:
    none, weak, strong = (float(p) for p in probabilities_L)
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
