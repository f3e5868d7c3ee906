"""Where a scorer's time goes: its models, its tokenisers, and the rest.

`TimedBuilder` wraps any scorer's builder. It looks through what the scorer holds and puts a clock on every torch module
and every tokenizer that it finds, so that scorers need not know that they are timed. A module inside a module is not
counted twice. On a GPU the clock waits for the computation to end, which makes scoring itself a little slower.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rewards.actor import PhaseSeconds
from rewards.scorer import FloatArray, Item, Scorer, ScorerBuilder


class _NestedClock:
    """Adds up the time of the outermost of nested calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._start = 0.0

    def enter(self) -> None:
        if self._depth == 0:
            self._start = time.perf_counter()
        self._depth += 1

    def leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.synchronize()
            self.seconds += time.perf_counter() - self._start


class TimedScorer:
    """A scorer with clocks on its models and tokenizers; its scores are those of the scorer."""

    def __init__(self, scorer: Scorer) -> None:
        """Put the clocks on."""
        self.name = scorer.name
        self._scorer = scorer
        self._model = _NestedClock()
        self._tokenizer = _NestedClock()
        for part in _parts(scorer):
            if isinstance(part, nn.Module):
                _time_module(part, self._model)
            else:
                _time_tokenizer(part, self._tokenizer)

    def score(self, items: Sequence[Item]) -> FloatArray:
        """What the scorer answers, shape `[n_items, width]`."""
        return self._scorer.score(items)

    def phases(self) -> PhaseSeconds:
        """Seconds since the scorer was built."""
        return PhaseSeconds(self._model.seconds, self._tokenizer.seconds)


@dataclass(frozen=True, slots=True)
class TimedBuilder:
    """Builds a scorer that knows where its time goes."""

    builder: ScorerBuilder

    def build(self) -> TimedScorer:
        """Construct the scorer and put clocks on it."""
        return TimedScorer(self.builder.build())


def _parts(holder: object) -> Iterator[nn.Module | PreTrainedTokenizerBase]:
    """The outermost modules and the tokenizers among an object's attributes, their attributes and so on, each once."""
    seen: set[int] = set()
    waiting: list[object] = [holder]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, nn.Module | PreTrainedTokenizerBase):
            yield part
        elif isinstance(part, Mapping):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple | set):
            waiting.extend(part)
        else:
            waiting.extend(_attributes(part))


def _attributes(holder: object) -> list[object]:
    slots = [name for kind in type(holder).__mro__ for name in getattr(kind, "__slots__", ())]
    found = [getattr(holder, name) for name in slots if hasattr(holder, name)]
    return found + list(getattr(holder, "__dict__", {}).values())


def _time_module(module: nn.Module, clock: _NestedClock) -> None:
    # All of its modules, as scorers also call parts of a model (its body, its head) by themselves.
    for part in module.modules():
        part.register_forward_pre_hook(lambda *_: clock.enter())
        # Also after an error, or the depth would be wrong from then on.
        part.register_forward_hook(lambda *_: clock.leave(), always_call=True)


def _time_tokenizer(tokenizer: PreTrainedTokenizerBase, clock: _NestedClock) -> None:
    kind = type(tokenizer)

    def timed_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        clock.enter()
        try:
            return kind.__call__(self, *args, **kwargs)
        finally:
            clock.leave()

    # Python looks `__call__` up on the class: this one tokenizer gets a class of its own.
    tokenizer.__class__ = type(kind.__name__, (kind,), {"__call__": timed_call})
