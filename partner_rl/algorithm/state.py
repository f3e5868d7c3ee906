"""The training state on disk: safetensors and JSON, never pickle.

RLlib's own checkpoints are pickles and miss the estimator and the data order. Random numbers need no saving: sampling
is seeded by (seed, iteration, shard) and the data order by (seed, epoch).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from partner_rl.types import PartnerError

_WEIGHTS = "weights.safetensors"
_MOMENTS = "optimizer.safetensors"
_STATE = "state.json"


@dataclass(frozen=True)
class TrainingState:
    """Everything that changes from iteration to iteration.

    Attributes:
        iterations: Iterations done.
        estimator: State of the advantage estimator.
        weights: Trained parameters by name.
        moments: Optimizer moments by `parameter/key`.
    """

    iterations: int
    estimator: Mapping[str, list[float]]
    weights: dict[str, torch.Tensor]
    moments: dict[str, torch.Tensor]

    def save(self, folder: Path) -> None:
        """Writes the state under a temporary name, then renames it: a folder of this name is always whole."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: t.contiguous() for name, t in self.weights.items()}, temporary / _WEIGHTS)
        save_file({name: t.contiguous() for name, t in self.moments.items()}, temporary / _MOMENTS)
        content = {"iterations": self.iterations, "estimator": dict(self.estimator)}
        (temporary / _STATE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)

    @classmethod
    def load(cls, folder: Path) -> TrainingState:
        """Reads a state.

        Raises:
            PartnerError: A file is missing or damaged.
        """
        try:
            content = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            return cls(
                int(content["iterations"]),
                content["estimator"],
                load_file(folder / _WEIGHTS),
                load_file(folder / _MOMENTS),
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise PartnerError(f"checkpoint {folder} cannot be read ({error}): resume from an older one") from error
