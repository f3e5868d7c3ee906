"""The terminal: one console for results, one for everything said on the way, logging and progress bars.

Results go to standard output, so that they can be piped; logs, progress and errors go to standard error. Progress is a
bar on a terminal and a plain line now and then elsewhere, so that the logs of a job stay readable.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from partner_rl.progress import Progress
from partner_rl.storage.atomic import is_written_in_place


def plain_console(*, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> Console:
    """A console that shows texts as they are: square brackets are no markup, and words between colons no pictures."""
    return Console(stderr=stderr, file=file, width=width, highlight=False, markup=False, emoji=False)


out: Final = plain_console()
"""Results: tables, rewrites, paths."""
err: Final = plain_console(stderr=True)
"""Everything said on the way: logs, progress, errors."""

_PLAIN_INTERVAL_S: Final = 15.0
_NOISY_LOGGERS: Final = ("urllib3", "filelock", "httpx", "httpcore", "fsspec", "asyncio", "h5py", "git")


def beside(*outputs: Path) -> Console:
    """Where to say something about what is written: not into it, where that is standard output."""
    return err if any(map(is_written_in_place, outputs)) else out


def typed_command(*words: object) -> str:
    """A command of ours as it is typed into a shell, such as the one that goes on with a run."""
    return shlex.join(["partner-rl", *map(str, words)])


def set_up_logging(level: int = logging.INFO) -> None:
    """Sends the records of all loggers to the terminal; chatty libraries only from warnings on.

    Calling it again changes the level.
    """
    handler = RichHandler(console=err, show_path=level <= logging.DEBUG, rich_tracebacks=False, log_time_format="[%X]")
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It advises where its cache should be, when the home cannot be written.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


@contextmanager
def progress(description: str, console: Console = err) -> Iterator[Progress]:
    """Shows how far a computation is, with the time that is left.

    Example:
        with progress("Training the empathy classifier") as report:
            train(pairs, progress=report)

    Args:
        description: What is computed, in a few words.
        console: Where to show it.

    Yields:
        A callback to be given (done, total) as the work goes on.
    """
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _PlainProgress(description, console)


@contextmanager
def waiting_for(what: str, state: Callable[[], str], every_s: float = 60.0) -> Iterator[None]:
    """Says now and then what the block still waits for.

    `state` is asked each time how things stand.
    """
    over = threading.Event()
    started = time.monotonic()

    def speak() -> None:
        while not over.wait(every_s):
            waited = _duration(time.monotonic() - started)
            err.print(f"still waiting for {what}, {waited}: {state()}", soft_wrap=True)

    voice = threading.Thread(target=speak, daemon=True)
    voice.start()
    try:
        yield
    finally:
        over.set()
        voice.join()


def _bar(console: Console) -> ProgressBar:
    return ProgressBar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


class _PlainProgress:
    """Progress as lines: at the start, at most one every few seconds, and at the end."""

    def __init__(self, description: str, console: Console) -> None:
        self._description = description
        self._console = console
        self._started = time.monotonic()
        self._last_line: float | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and self._last_line is not None and now - self._last_line < _PLAIN_INTERVAL_S:
            return
        self._last_line = now
        elapsed = now - self._started
        left = f", about {_duration(elapsed / done * (total - done))} left" if 0 < done < total else ""
        line = f"{self._description}: {done}/{total}, {_duration(elapsed)}{left}"
        self._console.print(line, soft_wrap=True)


def _duration(seconds: float) -> str:
    """Seconds as `12 s` or `3 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
