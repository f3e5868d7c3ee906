"""The held-out judge and its folder: safetensors and JSON, without the language model, which is named and found again.

Shapes: `_N` pair, `_M` mechanism, `_L` level.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from partner_rl.evaluation.judge.head import FloatArray, JudgeHead, expected_levels
from partner_rl.evaluation.judge.states import Pair, ResponseStates
from partner_rl.models.loading import load_causal_lm, load_tokenizer, open_causal_lm
from partner_rl.models.sources import find_model, resolve
from partner_rl.progress import Progress, no_progress
from partner_rl.storage.artefact import FORMAT, MARK, write_mark
from partner_rl.types import PartnerError

KIND: Final = "judge"
"""What a judge's folder says that it is."""
HEAD: Final = "head.safetensors"
"""File of the regressions."""

_TRAIN_AGAIN: Final = "train it again with `partner-rl judge train`"
_PROBE: Final[tuple[Pair, ...]] = (
    ("I failed the exam again and I am scared to tell my parents.", "I am so sorry. What do you fear they will say?"),
)
"""A made-up pair whose levels are noted in the folder: another language model under the same name is found out."""
_PROBE_TOLERANCE: Final = 0.02


class Judge:
    """Levels of the three mechanisms of empathy, by logistic regressions on a frozen language model's states."""

    def __init__(self, states: ResponseStates, head: JudgeHead, language_model: str) -> None:
        """Puts a judge together."""
        self._states = states
        self._head = head
        self._language_model = language_model

    def probabilities(self, pairs: Sequence[Pair], progress: Progress = no_progress) -> FloatArray:
        """Probability of each level, `[N, M, L]`; independent of what else is in the batch."""
        return self._head.probabilities(self._states.means(pairs, progress))

    def levels(self, pairs: Sequence[Pair], progress: Progress = no_progress) -> FloatArray:
        """Expected level of each of `MECHANISMS`, 0…2, `[N, M]`; their sum is the empathy score, 0…6."""
        return expected_levels(self.probabilities(pairs, progress))

    def save(self, folder: Path) -> None:
        """Writes the regressions and how to make their features into a folder that is being made."""
        folder.mkdir(parents=True, exist_ok=True)
        head = self._head
        save_file(
            {"mean": head.mean_F, "scale": head.scale_F, "weight": head.weight_MLF, "bias": head.bias_ML},
            folder / HEAD,
        )
        write_mark(
            folder,
            KIND,
            language_model=self._language_model,
            layers=list(self._states.layers),
            seeker_tokens=self._states.limits[0],
            response_tokens=self._states.limits[1],
            probe=self.levels(_PROBE)[0].tolist(),
        )


def load_judge(folder: Path, device: str = "cpu", cache_dir: Path | None = None) -> Judge:
    """Opens a folder that `partner-rl judge train` has written.

    Raises:
        PartnerError: It is not there, damaged, holds something else, or its language model cannot be found or is not
            the one that it was trained on.
    """
    metadata = _read_metadata(folder)
    name = str(metadata["language_model"])
    path = resolve(name, cache_dir)
    model = load_causal_lm(path)
    model.to(device)  # type: ignore[arg-type]
    states = ResponseStates(
        model,
        load_tokenizer(path),
        [int(layer) for layer in metadata["layers"]],
        int(metadata["seeker_tokens"]),
        int(metadata["response_tokens"]),
    )
    judge = Judge(states, _read_head(folder, len(states.layers) * states.hidden_size), name)
    if np.abs(judge.levels(_PROBE)[0] - np.array(metadata["probe"])).max() > _PROBE_TOLERANCE:
        raise PartnerError(f"the judge in {folder} was trained on another {name} than the one found: {_TRAIN_AGAIN}")
    return judge


def check_judge(folder: Path, cache_dir: Path | None = None) -> None:
    """Checks that `load_judge` would open the folder, without reading the language model's weights.

    Whether the language model is the one that the judge was trained on is found out when it is loaded.

    Raises:
        PartnerError: As `load_judge`.
    """
    metadata = _read_metadata(folder)
    path = find_model(str(metadata["language_model"]), cache_dir)
    if path is not None:
        load_tokenizer(path)
        hidden = int(open_causal_lm(path).config.get_text_config().hidden_size)
        _read_head(folder, len(metadata["layers"]) * hidden)


def _read_metadata(folder: Path) -> Mapping[str, Any]:
    path = folder / MARK
    if not path.is_file():
        raise PartnerError(f"no judge in {folder}: name a folder that `partner-rl judge train` has written")
    keys = ("kind", "format", "language_model", "layers", "seeker_tokens", "response_tokens", "probe")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        metadata = {key: content[key] for key in keys}
    except (ValueError, KeyError, TypeError) as error:
        raise PartnerError(f"{path} is damaged: {_TRAIN_AGAIN}") from error
    if (metadata["kind"], metadata["format"]) != (KIND, FORMAT):
        raise PartnerError(
            f"{folder} holds a {metadata['kind']!r} of format {metadata['format']}, not {KIND!r} of format {FORMAT}"
        )
    return metadata


def _read_head(folder: Path, num_features: int) -> JudgeHead:
    try:
        tensors = load_file(folder / HEAD)
        head = JudgeHead(tensors["mean"], tensors["scale"], tensors["weight"], tensors["bias"])
    except Exception as error:  # safetensors raises its own, bare subclass of Exception for a damaged file
        raise PartnerError(f"{folder / HEAD} is missing or damaged: {_TRAIN_AGAIN}") from error
    if head.mean_F.shape != (num_features,) or head.weight_MLF.shape[-1] != num_features:
        raise PartnerError(f"{folder / HEAD} does not fit its language model: {_TRAIN_AGAIN}")
    return head
