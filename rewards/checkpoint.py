"""Folders of trained classifiers: safetensors, JSON and the tokenizer, never a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from partner_rl.models.loading import load_config, load_tokenizer
from partner_rl.storage.artefact import FORMAT, MARK, write_mark
from partner_rl.types import PartnerError

WEIGHTS = "model.safetensors"
MEMBERS = "members"
"""In an ensemble's folder, which is that of its first member, the folder of the others, each named by its number."""


@dataclass(frozen=True, slots=True)
class StoredClassifier:
    """A classifier's folder, opened: tokenizer and configuration of its encoder, and what else was stored."""

    folder: Path
    tokenizer: Tokenizer
    config: PreTrainedConfig
    settings: Mapping[str, object]

    def new_encoder(self) -> PreTrainedModel:
        """An encoder of the stored architecture, its weights yet to be loaded."""
        encoder: PreTrainedModel = AutoModel.from_config(self.config)  # type: ignore[no-untyped-call]
        encoder.train(False)
        return encoder

    def check_weights(self, model: nn.Module) -> None:
        """Check, without reading a weight, that those that are stored have the model's names and shapes.

        Raises:
            PartnerError: They have not, or the file is damaged.
        """
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        try:
            with safe_open(str(self.folder / WEIGHTS), "pt") as file:
                found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises its own, bare subclass of Exception for a damaged file
            raise self._does_not_fit(type(error).__name__) from error
        if found != expected:
            raise self._does_not_fit("names or shapes differ")

    def _does_not_fit(self, reason: str) -> PartnerError:
        return PartnerError(
            f"{self.folder / WEIGHTS} does not fit its configuration ({reason}): "
            "delete the folder and train the classifier again"
        )

    def load_weights(self, model: nn.Module) -> None:
        """Load the stored weights; every tensor must match.

        Raises:
            PartnerError: Names or shapes differ, or the file is damaged.
        """
        self.check_weights(model)
        try:
            model.load_state_dict(load_file(str(self.folder / WEIGHTS)))
        except Exception as error:
            raise self._does_not_fit(type(error).__name__) from error


def write_classifier(
    folder: Path,
    kind: str,
    model: nn.Module,
    tokenizer: Tokenizer,
    encoder_config: PreTrainedConfig,
    settings: Mapping[str, object],
) -> None:
    """Write a classifier into a folder that is being made."""
    # Copies: safetensors refuses tensors that share memory.
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(folder / WEIGHTS))
    encoder_config.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    write_mark(folder, kind, settings=dict(settings))


def read_classifier(folder: Path, kind: str) -> StoredClassifier:
    """Open a classifier's folder.

    Raises:
        PartnerError: It is not there, incomplete, or holds something else.
    """
    if not (folder / MARK).is_file() or not (folder / WEIGHTS).is_file():
        raise PartnerError(
            f"no {kind} classifier in {folder}: name a folder that `partner-rl rewards train {kind}` has written; "
            f"a run trains its own where rewards.{kind}.checkpoint is null"
        )
    try:
        metadata = json.loads((folder / MARK).read_text(encoding="utf-8"))
        found, version = metadata["kind"], metadata["format"]
        settings = dict(metadata["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise PartnerError(f"{folder / MARK} is damaged: train the {kind} classifier again") from error
    if (found, version) != (kind, FORMAT):
        raise PartnerError(
            f"{folder} holds a {found!r} classifier of format {version}, not {kind!r} of format {FORMAT}: "
            f"name another folder in rewards.{kind}.checkpoint"
        )
    return StoredClassifier(folder, load_tokenizer(folder), load_config(folder), settings)
