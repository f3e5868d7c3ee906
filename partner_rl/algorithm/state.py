"""The training state on disk: safetensors and JSON, never pickle.

RLlib's own checkpoints are pickles and miss the estimator and the data order. Random numbers need no saving: sampling
is seeded by (seed, iteration, shard) and the data order by (seed, epoch).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from partner_rl.storage.atomic import WriteError, folder_when_whole, write_json
from partner_rl.storage.full_disk import disk_of, when_there_is_room
from partner_rl.storage.manifest import check_manifest, write_manifest
from partner_rl.types import PartnerError

WEIGHTS: Final = "weights.safetensors"
"""File of the trained parameters."""
OPTIMIZER_STATE: Final = "optimizer.safetensors"
"""File of the optimizer's state."""
STATE: Final = "state.json"
"""File of everything that is no tensor."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes from iteration to iteration.

    Attributes:
        iterations: Iterations done.
        extra: What else must continue, by owner, as JSON: estimator, normalisers, KL coefficient, guards.
        weights: Trained parameters by name.
        optimizer_state: AdamW's tensors by `parameter/key`.
    """

    iterations: int
    extra: Mapping[str, Any]
    weights: dict[str, torch.Tensor]
    optimizer_state: dict[str, torch.Tensor]

    def save(self, folder: Path, wait_s: float = 0.0) -> None:
        """Writes the state under a temporary name, then renames it: a folder of this name was whole once.

        While the disk is full, it waits for room, `wait_s` seconds at most.

        Raises:
            PartnerError: It cannot be written, for instance because the disk is full; nothing has changed then.
        """
        try:
            when_there_is_room(lambda: self._write(folder), disk_of(folder.parent), wait_s)
        except (OSError, SafetensorError, WriteError) as error:
            raise PartnerError(
                f"checkpoint {folder} cannot be written ({error}): make room and resume from the one before"
            ) from error

    def _write(self, folder: Path) -> None:
        with folder_when_whole(folder) as temporary:
            save_file({name: t.contiguous() for name, t in self.weights.items()}, temporary / WEIGHTS)
            save_file({name: t.contiguous() for name, t in self.optimizer_state.items()}, temporary / OPTIMIZER_STATE)
            write_json(temporary / STATE, {"iterations": self.iterations, "extra": dict(self.extra)})
            write_manifest(temporary)

    @classmethod
    def load(cls, folder: Path) -> TrainingState:
        """Reads a state.

        Raises:
            PartnerError: A file is missing or damaged.
        """
        try:
            check_manifest(folder)
            content = json.loads((folder / STATE).read_text(encoding="utf-8"))
            weights, optimizer_state = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER_STATE)
            return cls(int(content["iterations"]), content["extra"], weights, optimizer_state)
        except (PartnerError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise PartnerError(f"checkpoint {folder} cannot be read: {error}") from error
