"""Drawing from unequal groups so that the small ones are not drowned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """The items of each key as a list, in their order; the lists in the order of the keys."""
    groups: dict[Any, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return [groups[name] for name in sorted(groups)]


def interleaved(groups: Sequence[Sequence[T]]) -> list[T]:
    """One item of each group in turn; groups that are used up drop out.

    Any beginning of the result holds the groups in equal numbers, as far as they reach.
    """
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def even_shares(available: Sequence[int], total: int) -> list[int]:
    """Shares of a total, one a group, as even as the groups allow.

    Where the groups have less together than the total, each gives all it has.

    Returns:
        Shares that add up to `min(total, sum(available))`. Groups that are not used up differ by one at most.
    """
    shares = [0] * len(available)
    left = min(total, sum(available))
    order = sorted(range(len(available)), key=lambda group: available[group])
    for turn, group in enumerate(order):
        shares[group] = min(available[group], left // (len(order) - turn))
        left -= shares[group]
    return shares
