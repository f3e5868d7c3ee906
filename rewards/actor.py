"""What runs in the process of one scorer: builds the model, keeps the time limit, reports failures without posts."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, runtime_checkable

from rewards.scorer import Item, Scorer, ScorerBuilder

SNIPPET = 12
"""A message that shares this many characters with a post is withheld."""


@dataclass(frozen=True, slots=True)
class PhaseSeconds:
    """Seconds that a scorer spent in forward passes of its models and in calls of its tokenizers."""

    model: float = 0.0
    tokenizer: float = 0.0


@runtime_checkable
class TimesItself(Protocol):
    """A scorer that knows where its time goes, such as `rewards.timing.TimedScorer`."""

    def phases(self) -> PhaseSeconds:
        """Seconds since the scorer was built."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception in a scorer; `index` is the item that raises it alone, or None when only the batch does."""

    message: str
    index: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An actor's answer: the scorer's values as it returned them, and the seconds it took.

    Attributes:
        failure: What went wrong, if anything.
        phases: Which of the seconds its models and tokenizers took; zeros unless the scorer is timed.
    """

    values: object
    seconds: float
    failure: Failure | None = None
    phases: PhaseSeconds = PhaseSeconds()


class ScorerActor:
    """The process of one scorer. It builds the model at the first call, so that failures reach the caller."""

    def __init__(self, builder: ScorerBuilder, timeout_s: float) -> None:
        """Keep the recipe; `timeout_s` is the time limit of one micro-batch."""
        self._builder = builder
        self._timeout_s = timeout_s
        self._scorer: Scorer | None = None

    def ready(self) -> int:
        """Build the scorer unless it is built; the process id."""
        self._built()
        return os.getpid()

    def score(self, items: Sequence[Item]) -> Reply:
        """Score a micro-batch; the process ends when that takes longer than the time limit."""
        scorer = self._built()
        before = _phases(scorer)
        start = time.perf_counter()
        # The watchdog runs in C without the interpreter's lock, so that it also ends a call that never returns to
        # Python. It writes the stack, which holds no texts, to the actor's log.
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=sys.__stderr__ or sys.stderr)
        try:
            values: object = scorer.score(items)
        except Exception as error:
            faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=sys.__stderr__ or sys.stderr)
            return Reply(None, time.perf_counter() - start, _diagnose(scorer, items, error))
        finally:
            faulthandler.cancel_dump_traceback_later()
        seconds, after = time.perf_counter() - start, _phases(scorer)
        phases = PhaseSeconds(after.model - before.model, after.tokenizer - before.tokenizer)
        return Reply(values, seconds, phases=phases)

    def _built(self) -> Scorer:
        if self._scorer is None:
            self._scorer = self._builder.build()
        return self._scorer


def _phases(scorer: Scorer) -> PhaseSeconds:
    return scorer.phases() if isinstance(scorer, TimesItself) else PhaseSeconds()


def _diagnose(scorer: Scorer, items: Sequence[Item], error: Exception) -> Failure:
    """Find the item that raises on its own."""
    for index, item in enumerate(items):
        try:
            scorer.score([item])
        except Exception as alone:
            return Failure(describe_failure(alone, items), index)
    return Failure(describe_failure(error, items), None)


def describe_failure(error: BaseException, items: Sequence[Item]) -> str:
    """Type, place and message of an exception of a scorer, in one line; the message only when it quotes no post."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
    message = (str(error).strip().splitlines() or [""])[0][:200]
    if _quotes(message, [text for item in items for text in item]):
        message = "message withheld, as it quotes a post"
    return f"{type(error).__name__}{place}: {message}"


def _quotes(message: str, texts: Iterable[str]) -> bool:
    snippets = [message[i : i + SNIPPET] for i in range(max(1, len(message) - SNIPPET + 1))]
    return any(
        (len(text.strip()) > 2 and text.strip() in message)
        or (len(message) >= SNIPPET and any(snippet in text for snippet in snippets))
        for text in texts
    )
