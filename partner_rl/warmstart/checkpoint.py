"""The state of an unfinished warm start on disk: safetensors and JSON, never pickle.

A folder holds the newest state, `step-STEPS-EPOCHS/`, and the weights of the best pass so far,
`best-EPOCH/`. Both appear under their names only when they are whole, and older ones are removed after that,
so that a kill at any time leaves something to go on from. Nothing random needs saving: the order of the examples is
decided by (seed, epoch).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from partner_rl.storage.atomic import folder_when_whole, write_json
from partner_rl.storage.temporary import remove_unfinished
from partner_rl.types import PartnerError
from partner_rl.warmstart.history import History

_WEIGHTS: Final = "weights.safetensors"
_OPTIMIZER_STATE: Final = "optimizer.safetensors"
_STATE: Final = "state.json"

Tensors = Mapping[str, torch.Tensor]
"""Tensors on the CPU, by name."""


@dataclass(frozen=True)
class WarmStartState:
    """Everything that changes from step to step.

    Attributes:
        fingerprint: Identifies examples, settings and seed; a state continues its own training only.
        optimizer_state: AdamW's tensors by `parameter/key`.
    """

    fingerprint: str
    history: History
    weights: Tensors
    optimizer_state: Tensors

    def save(self, folder: Path) -> None:
        """Writes the state into the folder and removes what it makes superfluous, also what a kill left unfinished."""
        done = self.history
        target = folder / f"step-{len(done.losses):08d}-{len(done.epochs):04d}"
        # A state of this name is the same one: nothing has been done since.
        if target.is_dir():
            return
        with folder_when_whole(target) as temporary:
            _save_tensors(self.weights, temporary / _WEIGHTS)
            _save_tensors(self.optimizer_state, temporary / _OPTIMIZER_STATE)
            content = {"fingerprint": self.fingerprint, "history": done.as_json()}
            write_json(temporary / _STATE, content, indent=None)
        for path in [*_states(folder), *folder.glob("best-*")]:
            if path not in (target, _best_folder(folder, done.best_epoch)):
                shutil.rmtree(path)
        remove_unfinished(folder)

    @classmethod
    def load_newest(cls, folder: Path, fingerprint: str) -> WarmStartState | None:
        """Reads the newest state of the folder, or None when there is none.

        Raises:
            PartnerError: It is damaged, or belongs to a training of other examples, settings or seed.
        """
        states = _states(folder)
        if not states:
            return None
        path = states[-1]
        try:
            content = json.loads((path / _STATE).read_text(encoding="utf-8"))
            found = str(content["fingerprint"])
            state = cls(
                found,
                History.from_json(content["history"]),
                load_file(path / _WEIGHTS),
                load_file(path / _OPTIMIZER_STATE),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise PartnerError(f"the training state {path} cannot be read ({error}): start again without it") from error
        if found != fingerprint:
            raise PartnerError(
                f"{path} belongs to a warm start on other examples, settings or another seed: "
                "resume it with its own, or start again in an empty folder"
            )
        return state


def save_best(weights: Tensors, folder: Path, epoch: int) -> None:
    """Keeps the weights of a pass; those of an earlier one go with the next `WarmStartState.save`."""
    with folder_when_whole(_best_folder(folder, epoch)) as temporary:
        _save_tensors(weights, temporary / _WEIGHTS)


def load_best(folder: Path, epoch: int) -> dict[str, torch.Tensor]:
    """The weights that `save_best` kept.

    Raises:
        PartnerError: They are missing or damaged.
    """
    path = _best_folder(folder, epoch) / _WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise PartnerError(f"the best weights {path} cannot be read ({error}): start again without them") from error


def _best_folder(folder: Path, epoch: int) -> Path:
    return folder / f"best-{epoch:04d}"


def _states(folder: Path) -> list[Path]:
    """Whole states, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _save_tensors(tensors: Tensors, path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
