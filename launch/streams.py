"""Standard input, output and error, whatever is at their other ends: any encoding, a closed pipe, a lost terminal.

Results that nobody reads any more end a command, as they end other programs (status 141, that of SIGPIPE). What is said
on the way is never a reason to end: a run whose terminal has gone goes on to its checkpoint.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from typing import Final, TextIO

CLOSED_PIPE: Final = 141
"""Exit status of a command whose results nobody reads any more: 128 and the number of SIGPIPE."""

_NOBODY_THERE: Final = (errno.EPIPE, errno.EIO, errno.EBADF)
_ERRORS: Final = "partner_rl.plainly"
_PLAIN: Final = str.maketrans(
    {
        **dict(zip("▁▂▃▄▅▆▇█", "_.-=+*#@", strict=True)),
        **dict.fromkeys("‐‑‒–—−", "-"),
        **dict.fromkeys("‘’‚", "'"),
        **dict.fromkeys("“”„", '"'),
        **dict.fromkeys("·•", "*"),
        **{"…": "...", "→": "->", "←": "<-", "×": "x", "≤": "<=", "≥": ">=", "\N{NO-BREAK SPACE}": " "},
    }
)
"""What stands for characters of our own output where there are only those of ASCII."""


def settle_streams() -> None:
    """Makes the standard streams such that nothing that is printed raises an error."""
    codecs.register_error(_ERRORS, plainly)
    _open_all()
    sys.stdout, sys.stderr = _Results.around(sys.stdout), _Remarks.around(sys.stderr)


def plainly(error: UnicodeError) -> tuple[str, int]:
    """Handler of encoding errors: characters that look alike, or else the escapes of JSON (and of Python)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = error.object[error.start : error.end].translate(_PLAIN)
    return json.dumps(plain)[1:-1].replace('\\"', '"'), error.end


class _Stream(io.TextIOWrapper):
    """A standard stream that says by itself what to do when nobody is at its other end."""

    @classmethod
    def around(cls, stream: TextIO | None) -> TextIO:
        """The stream in the place of Python's own; one that a test or a notebook has put there stays."""
        if stream is None:
            return open(os.devnull, "w", encoding="utf-8")
        if type(stream) is not io.TextIOWrapper:
            return stream
        stream.flush()
        # Python keeps the old one, and with it the buffer, to its end.
        return cls(stream.buffer, encoding=stream.encoding, errors=_ERRORS, line_buffering=stream.line_buffering)

    def write(self, text: str) -> int:
        """Writes a text, or not where nobody reads it."""
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Writes what is held back, or not where nobody reads it."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Lets go of what is held back and of all that will come."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.fileno())
        os.close(nothing)


class _Remarks(_Stream):
    """Standard error."""


class _Results(_Stream):
    """Standard output."""

    def _give_up(self, error: OSError) -> None:
        super()._give_up(error)
        if error.errno not in _NOBODY_THERE:
            raise error
        raise SystemExit(CLOSED_PIPE) from error


def _open_all() -> None:
    """Gives streams that the parent has closed a place to go to: a file of ours must not get their numbers."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            os.open(os.devnull, flags)
