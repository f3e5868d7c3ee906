"""All baselines by name, and the systems that they make."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from partner_rl.evaluation.baselines.best_of_n import best_of_n
from partner_rl.evaluation.baselines.context import BaselineContext, BaselineRewrites
from partner_rl.evaluation.baselines.dialogue import dialogue
from partner_rl.evaluation.baselines.prompted import prompted
from partner_rl.evaluation.baselines.seq2seq import seq2seq
from partner_rl.evaluation.baselines.template import template
from partner_rl.evaluation.system import System
from partner_rl.types import PartnerError

logger = logging.getLogger(__name__)

BASELINES: Final[Mapping[str, Callable[[BaselineContext], BaselineRewrites]]] = MappingProxyType(
    {
        "template": template,
        "prompted": prompted,
        "dialogue": dialogue,
        "seq2seq": seq2seq,
        "best_of_n": best_of_n,
    }
)
"""Name → the baseline, in the order of the results table."""

ALL: Final = "all"
"""Stands for every baseline."""

IN_EVERY_EVALUATION: Final = ("unchanged", "warm_start")
"""Names that may be given, of systems that an evaluation holds anyway: the originals and the policy before RL."""


def baseline_names(text: str) -> tuple[str, ...]:
    """The baselines in `NAME,NAME` or `all`, without repeats, in the order of `BASELINES`.

    Raises:
        PartnerError: There is no such baseline, or none is named.
    """
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    known = (*BASELINES, *IN_EVERY_EVALUATION)
    if not wanted:
        raise PartnerError(f"no baseline is named: give {ALL} or some of {', '.join(known)}")
    if ALL in wanted:
        return tuple(BASELINES)
    for name in wanted:
        if name not in known:
            (nearest, *_) = [*get_close_matches(name, known, n=1), ""]
            hint = f"did you mean {nearest}?" if nearest else f"there are {ALL}, {', '.join(known)}"
            raise PartnerError(f"there is no baseline {name!r}; {hint}")
    return tuple(name for name in BASELINES if name in wanted)


def why_left_out(name: str, context: BaselineContext) -> str | None:
    """What a baseline lacks to run, with what to do about it; None when it has all."""
    if name == "seq2seq" and context.seq2seq is None:
        return "set evaluation.seq2seq to a folder that `partner-rl baselines train-seq2seq` wrote"
    if name == "best_of_n" and context.warm_start is None:
        return "the run has no warm start"
    return None


def make_baselines(names: Sequence[str], context: BaselineContext) -> list[System]:
    """Runs baselines on the context's pairs, one after the other; those that lack something are left out with a word.

    Raises:
        PartnerError: A model cannot be loaded, or a reward fails.
    """
    systems = []
    for name in names:
        reason = why_left_out(name, context)
        if reason is not None:
            logger.warning("baseline %s is left out: %s", name, reason)
            continue
        made = BASELINES[name](context)
        systems.append(System(name, made.requests, made.note))
    return systems
