"""The path from requests to items and from rows of scores back to rewards, without any model or actor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np

from partner_rl.types import PartnerError, RewardBreakdown, ScoreRequest
from rewards.scorer import FloatArray, Item, RewardDefinition


@dataclass(frozen=True, slots=True)
class ItemTable:
    """The distinct items of a batch of requests.

    Attributes:
        items: Each item once, in order of first use.
        first_request: Per item, the index of the first request that uses it.
        rows: Per request, the index into `items` of each of its items.
    """

    items: tuple[Item, ...]
    first_request: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


def collect_items(definition: RewardDefinition, requests: Sequence[ScoreRequest]) -> ItemTable:
    """Gather what a component needs scores for, each item once."""
    index: dict[Item, int] = {}
    first_request: list[int] = []
    rows: list[tuple[int, ...]] = []
    for number, request in enumerate(requests):
        row = []
        for item in definition.items(request):
            if item not in index:
                index[item] = len(index)
                first_request.append(number)
            row.append(index[item])
        rows.append(tuple(row))
    return ItemTable(tuple(index), tuple(first_request), tuple(rows))


def assemble(
    requests: Sequence[ScoreRequest],
    definitions: Sequence[RewardDefinition],
    tables: Mapping[str, ItemTable],
    values: Mapping[str, FloatArray],
) -> list[RewardBreakdown]:
    """The scores of each request by component; the details' names become `component/detail`.

    Args:
        requests: The requests, in the order of `tables`.
        definitions: The components that were scored.
        tables: Component name → its items.
        values: Component name → scores of its items, shape `[n_items, width]`.

    Raises:
        PartnerError: A combined number is not finite.
    """

    def combined(number: int, request: ScoreRequest) -> RewardBreakdown:
        scores = {
            definition.name: definition.combine(
                request, values[definition.name][list(tables[definition.name].rows[number])]
            )
            for definition in definitions
        }
        raw = {name: float(score.value) for name, score in scores.items()}
        details = {f"{name}/{key}": float(x) for name, score in scores.items() for key, x in score.details.items()}
        for name, value in [*raw.items(), *details.items()]:
            if not math.isfinite(value):
                raise PartnerError(f"reward component {name!r} is {value}: its combine() must return finite numbers")
        return RewardBreakdown(raw, details)

    return [combined(number, request) for number, request in enumerate(requests)]


def check_rows(values: object, scorer: str, width: int, rows: Sequence[int]) -> FloatArray:
    """What a scorer returned, as an array, or an error that says where it is wrong.

    Raises:
        PartnerError: The answer is None, has another number of rows, a row of another width, or one with None, NaN
            or infinity. Names the scorer and the request.
    """
    if not isinstance(values, Sized):
        raise PartnerError(
            f"scorer {scorer!r} returned {type(values).__name__} for the items of {name_rows(rows)}: "
            f"its score() must return an array of shape [items, {width}]"
        )
    if len(values) != len(rows):
        raise PartnerError(
            f"scorer {scorer!r} returned {len(values)} rows for the {len(rows)} items of {name_rows(rows)}: "
            "its score() must return one row per item, in order"
        )
    if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.shape == (len(rows), width):
        array = values.astype(np.float32)
    else:
        array = np.array(
            [_check_row(row, scorer, width, rows[i]) for i, row in enumerate(_listed(values, scorer))], np.float32
        ).reshape(len(rows), width)
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if wrong.size:
        raise _bad_row(scorer, rows[wrong[0]], f"{array[wrong[0]].tolist()}, which is not finite")
    return array


def _listed(values: object, scorer: str) -> list[object]:
    if isinstance(values, np.ndarray):
        return list(values)
    if isinstance(values, Sequence) and not isinstance(values, str):
        return list(values)
    raise PartnerError(f"scorer {scorer!r} returned {type(values).__name__}: its score() must return an array")


def _check_row(row: object, scorer: str, width: int, request: int) -> list[float]:
    numbers = row.tolist() if isinstance(row, np.ndarray) else row
    if not isinstance(numbers, Sequence) or isinstance(numbers, str):
        raise _bad_row(scorer, request, f"{type(row).__name__} instead of {width} numbers")
    if len(numbers) != width:
        raise _bad_row(scorer, request, f"{len(numbers)} numbers instead of {width}")
    for number in numbers:
        if not isinstance(number, int | float | np.number):
            raise _bad_row(scorer, request, f"{type(number).__name__} instead of a number")
    return [float(number) for number in numbers]


def _bad_row(scorer: str, request: int, what: str) -> PartnerError:
    return PartnerError(
        f"scorer {scorer!r} returned {what} for row {request}: check that request's texts and the scorer's model"
    )


def name_rows(rows: Sequence[int]) -> str:
    """How messages name the requests that a micro-batch belongs to."""
    low, high = min(rows, default=0), max(rows, default=0)
    return f"row {low}" if low == high else f"rows {low} to {high}"
