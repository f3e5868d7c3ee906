"""Which examples an iteration trains on: a pure function of seed and iteration, so that a resume needs no cursor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from partner_rl.types import Example


def examples_of_iteration(examples: Sequence[Example], groups: int, iteration: int, seed: int) -> list[Example]:
    """The `groups` examples of an iteration (counted from 0).

    Each epoch goes through all examples in a fresh random order; an iteration may span two epochs.
    """
    chosen = []
    for place in range(iteration * groups, (iteration + 1) * groups):
        epoch, index = divmod(place, len(examples))
        order = np.random.default_rng([seed, epoch]).permutation(len(examples))
        chosen.append(examples[int(order[index])])
    return chosen
