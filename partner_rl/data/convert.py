"""Any source → one Parquet file, with the rows that could not be used set aside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from partner_rl.data.pair_schema import write_parquet
from partner_rl.data.readers import Sieve, describe, no_pairs_message
from partner_rl.data.records import Reject, Remark
from partner_rl.types import Example, PartnerError


def refuse_rejects(rows: Iterable[Example | Reject | Remark]) -> Iterator[Example | Remark]:
    """The same rows, stopping at the first that cannot be used.

    Raises:
        PartnerError: A row is rejected; names its line and the reason.
    """
    for row in rows:
        if isinstance(row, Reject):
            raise PartnerError(f"{describe(row)}; mend the row, or convert without --strict")
        yield row


def convert(rows: Iterable[Example | Reject | Remark], source: str, output: Path) -> tuple[int, Sieve]:
    """Write the pairs among the rows (see `readers.iter_rows`) to a Parquet file as they come.

    Returns:
        The number of pairs written, and the rows that are none.

    Raises:
        PartnerError: Not one pair can be used (no file is written then), or the file cannot be written.
    """
    sieve = Sieve()
    pairs = sieve.pairs(rows)
    first = next(pairs, None)
    if first is None:
        raise PartnerError(no_pairs_message(source, sieve.rejects))
    return write_parquet(chain((first,), pairs), output), sieve
