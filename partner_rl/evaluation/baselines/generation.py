"""Whole answers of a causal language model, by `transformers.generate`, with a random stream for each prompt.

Rows that run together are padded on the left, so one stream for a batch would tie a pair's answer to its neighbours.
Here each pair has numbers of its own: token `t` of pair `i` inverts the cumulative distribution at `u[i, t]`, which
depends on the seed and the pair's ids alone. An answer is the same for any batch size, order and choice of pairs, up to
floating-point rounding of the logits.

Shapes: `_B` row, `_T` token, `_V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from partner_rl.config.schema import EvaluationConfig
from partner_rl.data.splits import hash_fraction
from partner_rl.models.loading import check_positions, quiet_transformers
from partner_rl.progress import Progress
from partner_rl.seeds import generator_of
from partner_rl.types import Example

LENGTHS: Final = "baselines.max_post_tokens or baselines.max_new_tokens"
"""Keys of how long prompts and answers are."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated text without special tokens, and whether it ended because of its length."""

    text: str
    cut_off: bool


class _DrawFromStream(LogitsProcessor):
    """Leaves one token a row: the one that the row's next number falls on; a greedy search then takes it."""

    def __init__(self, uniform_BT: torch.Tensor, prompt_width: int) -> None:
        self._uniform_BT = uniform_BT
        self._width = prompt_width

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        uniform_B1 = self._uniform_BT[:, input_ids.shape[1] - self._width, None]
        cumulative_BV = scores.double().softmax(-1).cumsum(-1)
        # Words of probability 0 are never drawn: their cumulative weight is that of the word before.
        drawn_B1 = torch.searchsorted(cumulative_BV, uniform_B1 * cumulative_BV[:, -1:], right=True)
        chosen: Any = torch.full_like(scores, float("-inf"))
        chosen.scatter_(1, drawn_B1.clamp(max=scores.shape[1] - 1), 0.0)
        return chosen  # type: ignore[no-any-return]


def random_streams(pairs: Sequence[Example], length: int, seed: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), shape `[n, length]`: row `i` depends on the seed and on pair `i`'s ids."""
    rows = []
    for pair in pairs:
        key = int(hash_fraction("baselines", pair.seeker_id, pair.response_id) * 2**53)
        rows.append(generator_of("baselines", seed, key).random(length))
    return np.array(rows).reshape(len(pairs), length)


def line_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of all tokens that hold a line break: they end an answer of one line."""
    size = len(tokenizer)
    texts = tokenizer.batch_decode([[token] for token in range(size)])
    return [token for token, text in enumerate(texts) if "\n" in text]


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    streams: npt.NDArray[np.float64],
    sampling: EvaluationConfig,
    end_ids: Sequence[int],
    progress: Progress,
) -> list[Answer]:
    """Continues every prompt.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Token ids, at least one a prompt.
        streams: `[n, max_new_tokens]` random numbers of each prompt; the width limits the answers.
        sampling: The keys `temperature`, `top_p`, `top_k` and `batch_size`.
        end_ids: Tokens that end an answer; the first token is none of them.
        progress: Told after each batch.

    Returns:
        One answer a prompt, in order.

    Raises:
        PartnerError: The model has fewer positions.
    """
    longest = max(map(len, prompts), default=0) + streams.shape[1]
    check_positions(tokenizer.name_or_path, model.config, longest, LENGTHS)
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    answers: dict[int, Answer] = {}
    progress(0, len(prompts))
    for start in range(0, len(order), sampling.batch_size):
        rows = order[start : start + sampling.batch_size]
        found = _generate_batch(model, tokenizer, [prompts[r] for r in rows], streams[rows], sampling, end_ids)
        answers.update(zip(rows, found, strict=True))
        progress(len(answers), len(prompts))
    return [answers[row] for row in range(len(prompts))]


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    streams: npt.NDArray[np.float64],
    sampling: EvaluationConfig,
    end_ids: Sequence[int],
) -> list[Answer]:
    device, width, limit = model.device, max(map(len, prompts)), streams.shape[1]
    pad: Any = tokenizer.pad_token_id
    ids_BT = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    drawing = _DrawFromStream(torch.from_numpy(streams).to(device), width)
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, num_beams=1, max_new_tokens=limit, min_new_tokens=1, pad_token_id=pad, eos_token_id=[*end_ids]
    )
    generate: Any = model.generate
    with quiet_transformers():
        output_BT = generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            generation_config=settings,
            logits_processor=LogitsProcessorList([*_warpers(sampling), drawing]),
        )
    ends = set(end_ids)
    answers = []
    for tokens in output_BT[:, width:].tolist():
        stop = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = tokenizer.decode(tokens[:stop], skip_special_tokens=True)
        answers.append(Answer(str(text), cut_off=stop is None))
    return answers


def _warpers(sampling: EvaluationConfig) -> list[LogitsProcessor]:
    """Temperature, then top-k, then top-p, as the policy's sampling has them."""
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers
