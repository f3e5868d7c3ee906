"""The first rows of the corpus: whether they can be read and have the labels that training needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from launch.preflight.check_result import CheckResult
from launch.preflight.facts import Facts
from partner_rl.config.schema import RunConfig
from partner_rl.data.readers import iter_rows
from partner_rl.data.records import Reject
from partner_rl.types import Example, PartnerError

FIRST_ROWS: Final = 200
"""Rows of the data that are read, and more where none of them is a pair."""


@dataclass(frozen=True, slots=True)
class FirstRows:
    """Counts over the first rows of `source`.

    Attributes:
        labelled: Pairs among them with levels of empathy.
        needs_labels: Whether training needs some.
        problem: Why nothing can be read; empty otherwise.
    """

    source: str
    pairs: int = 0
    rejects: int = 0
    labelled: int = 0
    needs_labels: bool = False
    problem: str = ""


def first_rows(config: RunConfig, *, needs_labels: bool) -> FirstRows:
    """The first rows of the data; no text of them is kept.

    Args:
        config: The run.
        needs_labels: Whether training learns from labels, unless the configuration names what was learned.
    """
    source = config.data.source
    pairs = rejects = labelled = 0
    try:
        rows = iter_rows(source, config.data.max_post_characters)
        while pairs == 0 and (block := list(islice(rows, FIRST_ROWS))):
            found = [row for row in block if isinstance(row, Example)]
            pairs, labelled = len(found), sum(pair.empathy is not None for pair in found)
            rejects += sum(isinstance(row, Reject) for row in block)
    except PartnerError as error:
        return FirstRows(source, problem=str(error))
    except OSError as error:
        return FirstRows(source, problem=f"{source} cannot be read ({error.strerror or error})")
    if pairs == 0:
        how = "see `partner-rl data convert`, which lists what is wrong with each row"
        return FirstRows(
            source, rejects=rejects, problem=f"{source} holds no usable pair, {rejects} rows rejected: {how}"
        )
    warmstart = config.warmstart
    learns = config.rewards.empathy.checkpoint is None or (
        warmstart.checkpoint is None and warmstart.data is None and warmstart.epochs > 0
    )
    return FirstRows(source, pairs, rejects, labelled, needs_labels=needs_labels and learns)


def check_data(facts: Facts) -> Iterator[CheckResult]:
    """The corpus of a command that reads one."""
    if facts.request.reads_data:
        yield data_result(first_rows(facts.config, needs_labels=facts.request.needs_labels))


def data_result(corpus: FirstRows) -> CheckResult:
    """What the first rows say."""
    if corpus.problem:
        return CheckResult("data", "problem", corpus.problem, "correct data.source")
    rows = corpus.pairs + corpus.rejects
    found = f"{corpus.source}: {corpus.pairs} of the first {rows} rows are pairs, {corpus.labelled} of them labelled"
    if corpus.needs_labels and not corpus.labelled:
        hint = "set rewards.empathy.checkpoint and warmstart.checkpoint (or warmstart.data), or give labelled pairs"
        return CheckResult("data", "warning", found, hint)
    if corpus.rejects > corpus.pairs:
        hint = "see `partner-rl data convert`, which lists what is wrong with each row"
        return CheckResult("data", "warning", found, hint)
    return CheckResult("data", "ok", found)
