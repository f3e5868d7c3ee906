"""The size of the work that is measured; imports nothing, so that commands answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Workload:
    """The size of an iteration.

    Attributes:
        model: The policy's model, as in `models.policy`.
        groups: Prompts in an iteration, `G`.
        samples: Samples of each, `K`.
        prompt_tokens: Longest prompt; the others are within a word of it.
        new_tokens: Tokens of every sampled sentence.
        learning_rate: Of AdamW.
        dtype: Compute type; weights are float32.
        device: `cpu` or `cuda`.
        threads: Torch threads of the process that samples and updates.
        seed: Seed of everything random.
        overrides: Further keys of the configuration, `KEY=VALUE`.
    """

    model: str
    groups: int = 4
    samples: int = 8
    prompt_tokens: int = 100
    new_tokens: int = 24
    learning_rate: float = 1e-5
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    overrides: tuple[str, ...] = ()

    @property
    def episodes(self) -> int:
        """Episodes of an iteration."""
        return self.groups * self.samples
