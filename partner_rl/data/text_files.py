"""Text files in the encodings that spreadsheets write, opened as text."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from typing import IO, Final, TypeVar

from partner_rl.progress import Progress
from partner_rl.types import PartnerError

_HEAD_BYTES: Final = 4096
_PROGRESS_EVERY: Final = 256
_BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""What a file begins with → its encoding; those of UTF-32 before those of UTF-16, with which they begin."""

_NO_TEXT: Final = {
    b"PAR1": "is a Parquet file: let its name end in .parquet",
    b"PK\x03\x04": "is a spreadsheet or an archive (ZIP), no text: save it as CSV in UTF-8",
    b"\x1f\x8b": "is compressed (gzip): decompress it first",
    b"(\xb5/\xfd": "is compressed (Zstandard): decompress it first",
}
_T = TypeVar("_T")


class TextFile:
    """A text file that is being read, and how far.

    Attributes:
        text: Its text; bytes that are not UTF-8 are lone surrogates (PEP 383).
    """

    def __init__(self, binary: IO[bytes], encoding: str, newline: str) -> None:
        """Take over an open file.

        Args:
            binary: The file, at its start.
            encoding: Its encoding.
            newline: As of `open`: empty ends lines as CSV does, a line feed ends them nowhere else.
        """
        self._binary = binary
        self._size = _size(binary)
        # The codecs of UTF-16 and UTF-32 know no escapes.
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        self.text = io.TextIOWrapper(binary, encoding=encoding, errors=errors, newline=newline)

    def reporting(self, rows: Iterable[_T], progress: Progress) -> Iterator[_T]:
        """Passes rows on, and tells every now and then how many bytes were read."""
        for number, row in enumerate(rows):
            if number % _PROGRESS_EVERY == 0:
                progress(self._binary.tell(), self._size)
            yield row
        progress(self._size, self._size)


@contextmanager
def open_text(path: Traversable, newline: str = "") -> Iterator[TextFile]:
    """Open a text file in UTF-8, or in the encoding that its byte order mark names.

    Raises:
        PartnerError: The file cannot be opened, is no text, or breaks off within a character.
    """
    try:
        with path.open("rb") as binary:
            yield TextFile(binary, _encoding(binary.read(_HEAD_BYTES), path.name), newline)
    except OSError as error:
        raise PartnerError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PartnerError(f"{path.name} is damaged {error.encoding.upper()}: save it as UTF-8") from error


def _encoding(head: bytes, name: str) -> str:
    for start, what in _NO_TEXT.items():
        if head.startswith(start):
            raise PartnerError(f"{name} {what}")
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    # A NUL at every other place; a single one costs its row alone.
    if head.count(0) > len(head) // 4:
        raise PartnerError(f"{name} is no UTF-8 but seems to be UTF-16 without a byte order mark: save it as UTF-8")
    return "utf-8"


def _size(binary: IO[bytes]) -> int:
    size = binary.seek(0, io.SEEK_END)
    binary.seek(0)
    return size
