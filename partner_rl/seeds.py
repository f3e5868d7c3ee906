"""Seeds with a purpose: numbers that are used for one thing never seed another."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def seed_of(purpose: str, *numbers: int) -> int:
    """A seed of 63 bits for one purpose.

    Python's and numpy's own ways of seeding with several numbers take `(1, 2)` and `(1, 2, 0)` for the same.

    Args:
        purpose: A word for what is seeded, such as `sampling`.
        numbers: What tells one use from the next, such as the run's seed and the iteration.
    """
    text = " ".join([purpose, *map(str, numbers)])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_of(purpose: str, *numbers: int) -> np.random.Generator:
    """A generator that is seeded by `seed_of`."""
    return np.random.default_rng(seed_of(purpose, *numbers))
