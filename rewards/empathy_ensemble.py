"""An ensemble of empathy classifiers, and the lower confidence bound of the levels that its members see.

Where members agree, the labels have taught them; where they differ, chance has: a bound below their mean pays for the
first and not for the second. What all have learned alike it pays in full, be it right or wrong. Members differ in both
halves. The encoders differ in the seed of new layers, order and dropout (deep ensembles, Lakshminarayanan et al.,
NeurIPS 2017). The regression on n-grams has no seed and would be the same in all, so that every further member fits it
on a resample of the pairs (bagging, Breiman, 1996).

The first member is the classifier that is trained alone, number by number, and its folder is the ensemble's; the others
lie below it. Whatever reads one classifier reads the first.

Shapes: `_E` member, `_N` pair, `_M` mechanism, `_L` level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from partner_rl.storage.artefact import write_mark
from partner_rl.types import MAX_LEVEL, NUM_LEVELS, PartnerError
from rewards.checkpoint import MEMBERS
from rewards.empathy_model import KIND, EmpathyClassifier


@dataclass(frozen=True, slots=True)
class EmpathyEnsemble:
    """Classifiers that were trained for the same task.

    Attributes:
        members: At least one; the first is the classifier that is trained alone.
    """

    members: tuple[EmpathyClassifier, ...]

    def expected_levels(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Each member's expected level of each mechanism, `[E, N, M]`, of (seeker post, response) pairs."""
        levels_L = torch.arange(NUM_LEVELS, dtype=torch.float32)
        return torch.stack([member.level_probabilities(pairs) @ levels_L for member in self.members])

    def save(self, folder: Path) -> None:
        """Write the first member into a folder that is being made, and the others below it."""
        self.members[0].save(folder)
        for number, member in enumerate(self.members[1:], start=2):
            member.save(folder / MEMBERS / str(number))
        write_mark(folder, KIND)

    @classmethod
    def check(cls, folder: Path) -> int:
        """Check that `load` would read the folder, without reading a weight.

        Returns:
            How many members it holds.

        Raises:
            PartnerError: As `load`.
        """
        folders = (folder, *_further_members(folder))
        for path in folders:
            EmpathyClassifier.check(path)
        return len(folders)

    @classmethod
    def load(cls, folder: Path, max_tokens: int | None = None, device: str = "cpu") -> EmpathyEnsemble:
        """Read what `save` wrote; a single classifier's folder is an ensemble of one.

        Each post is cut to its first `max_tokens` tokens; None cuts as in training.

        Raises:
            PartnerError: There is no classifier, or a member is missing.
        """
        folders = (folder, *_further_members(folder))
        return cls(tuple(EmpathyClassifier.from_pretrained(path, max_tokens, device) for path in folders))


def lower_bound(levels_ENM: Tensor, deviations: float) -> Tensor:
    """The members' mean less `deviations` of their standard deviations, within 0…2, `[N, M]`.

    The deviation is that of a sample (divided by E − 1): it says how far one more member would be off, and does not
    shrink when there are more of them.
    """
    return (levels_ENM.mean(dim=0) - deviations * levels_ENM.std(dim=0)).clamp(0.0, float(MAX_LEVEL))


def _further_members(folder: Path) -> list[Path]:
    found = {path.name for path in (folder / MEMBERS).glob("*")}
    expected = [str(number) for number in range(2, len(found) + 2)]
    if found != set(expected):
        raise PartnerError(
            f"{folder / MEMBERS} holds {', '.join(sorted(found))} where members 2 to {len(found) + 1} should be: "
            "copy the whole folder, or train the empathy classifier again"
        )
    return [folder / MEMBERS / name for name in expected]
