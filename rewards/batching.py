"""Orders and cuts batches so that padding is small and memory is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rewards.scorer import Item


def item_order(item: Item) -> tuple[tuple[int, str], ...]:
    """The key to sort items by: by length, with equal leading texts side by side.

    Neighbours then share what scorers compute once per leading text (the seeker's states, a prompt's KV cache).
    """
    return tuple((len(text), text) for text in item)


def length_batches(lengths: Sequence[int], budget: int, most_padding: int | None = None) -> Iterator[list[int]]:
    """Cut indices `0…n-1` into batches of similar length.

    Args:
        lengths: Tokens of each row.
        budget: Most padded tokens (rows times the longest row) in a batch; a single longer row is a batch alone.
        most_padding: A row that would pad those before it with more tokens than this begins another batch; None for
            no such limit.

    Yields:
        Indices of one batch, shortest row first; every index occurs exactly once over all batches.
    """
    most_padding = budget if most_padding is None else most_padding
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        padding = len(batch) * (lengths[index] - lengths[batch[-1]]) if batch else 0
        if batch and ((len(batch) + 1) * lengths[index] > budget or padding > most_padding):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def common_prefix(first: Sequence[object], second: Sequence[object]) -> int:
    """How many elements two sequences have in common at their beginnings."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
