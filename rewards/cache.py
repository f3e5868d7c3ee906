"""A client's memory of scores, so that what repeats (above all the originals) is computed once."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from rewards.scorer import FloatArray, Item


class ScoreCache:
    """The most recently used scores, by digest of the texts, so that no posts pile up in memory."""

    def __init__(self, size: int) -> None:
        """Keep at most `size` rows."""
        self._size = size
        self._rows: OrderedDict[bytes, FloatArray] = OrderedDict()

    def get(self, component: str, item: Item) -> FloatArray | None:
        """The row of an item, shape `[width]`, or None."""
        key = _digest(component, item)
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, component: str, item: Item, row: FloatArray) -> None:
        """Keep the row of an item; the least recently used one makes room."""
        self._rows[_digest(component, item)] = row.copy()
        while len(self._rows) > self._size:
            self._rows.popitem(last=False)


def _digest(component: str, item: Item) -> bytes:
    digest = blake2b(digest_size=16)
    for text in (component, *item):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()
