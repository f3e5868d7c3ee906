"""A blinded A/B sheet for human raters: whose rewrite is which stands in a key file apart.

The paper's raters chose between two systems' rewrites by empathy, fluency and specificity (PARTNER, section 6.4).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from partner_rl.evaluation.result import EvaluationResult
from partner_rl.storage.atomic import text_when_whole
from partner_rl.types import PartnerError

QUESTIONS: Final = ("more_empathic", "more_fluent", "more_specific")
"""Columns that a rater fills in with A, B or =."""
_FORMULA_STARTS: Final = ("=", "+", "-", "@")


def key_path(sheet: Path) -> Path:
    """Where the key of a sheet is written: beside it, never to be shown to a rater."""
    return sheet.parent / f"{sheet.stem}.key.csv"


def write_human_sheet(
    sheet: Path, result: EvaluationResult, pairings: Sequence[tuple[str, str]], pairs_each: int, seed: int
) -> int:
    """Writes a sheet and its key.

    Args:
        sheet: The CSV file for raters.
        result: An evaluation.
        pairings: Which two systems to compare, by name.
        pairs_each: At most this many pairs a pairing; pairs on which both systems wrote the same are passed over.
        seed: Decides which pairs are asked about, in what order, and which system is A.

    Returns:
        Items in the sheet.

    Raises:
        PartnerError: A system was not evaluated, or no two systems differ on any pair.
    """
    rewrites = {scores.name: scores.rewrites for scores in result.scores}
    unknown = sorted({name for pairing in pairings for name in pairing} - rewrites.keys())
    if unknown:
        raise PartnerError(f"no system {', '.join(unknown)} for the sheet: there are {', '.join(rewrites)}")
    random = np.random.default_rng(seed)
    chosen = [(row, pairing) for pairing in pairings for row in _rows(rewrites, pairing, random)[:pairs_each]]
    if not chosen:
        raise PartnerError("nothing to ask raters: the systems wrote the same responses")
    items, keys = [], []
    for number, index in enumerate(random.permutation(len(chosen)), start=1):
        row, (first, second) = chosen[index]
        a, b = (first, second) if random.random() < 1 / 2 else (second, first)
        example = result.examples[row]
        texts = {"seeker_post": example.seeker_post, "A": rewrites[a][row], "B": rewrites[b][row]}
        items.append({"item": str(number), **texts, **dict.fromkeys(QUESTIONS, "")})
        ids = {"seeker_id": example.seeker_id, "response_id": example.response_id}
        keys.append({"item": str(number), "A": a, "B": b, **ids})
    _write_rows(key_path(sheet), keys)
    _write_rows(sheet, items)
    return len(items)


def _rows(rewrites: Mapping[str, Sequence[str]], pairing: tuple[str, str], random: np.random.Generator) -> list[int]:
    """Rows on which two systems differ, in random order."""
    first, second = (rewrites[name] for name in pairing)
    return [int(row) for row in random.permutation(len(first)) if first[row] != second[row]]


def _as_text(value: str) -> str:
    """A cell that no spreadsheet takes for a formula: a post may begin like one."""
    return f"'{value}" if value.lstrip()[:1] in _FORMULA_STARTS else value


def _write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with text_when_whole(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({column: _as_text(value) for column, value in row.items()} for row in rows)
