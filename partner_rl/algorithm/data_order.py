"""Which examples an iteration trains on: a pure function of seed and iteration, so that a resume needs no cursor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from partner_rl.seeds import generator_of
from partner_rl.types import Example


def examples_of_iteration(examples: Sequence[Example], groups: int, iteration: int, seed: int) -> list[Example]:
    """The `groups` examples of an iteration (counted from 0).

    Each epoch goes through all examples in a fresh random order; an iteration may span two epochs.
    """
    places = (divmod(place, len(examples)) for place in range(iteration * groups, (iteration + 1) * groups))
    return [examples[int(_order(seed, epoch, len(examples))[index])] for epoch, index in places]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """An epoch's order; kept, since a million examples take most of a second to permute."""
    return generator_of("data order", seed, epoch).permutation(count)
