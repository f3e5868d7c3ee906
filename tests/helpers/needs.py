"""What a test needs, read from its code: Ray, processes of its own."""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import pytest

_STARTS = {"Popen", "run", "check_call", "check_output"}


def needs_of(item: pytest.Item) -> set[str]:
    """Which of `ray` and `process` a test needs, by what it, its fixtures and the test code that they call name."""
    if not isinstance(item, pytest.Function):
        return set()
    fixtures = [made.func for known in item._fixtureinfo.name2fixturedefs.values() for made in known]
    return {need for function in _reachable([item.function, *fixtures]) for need in _named_needs(function)}


def _reachable(functions: Iterable[Callable[..., Any]]) -> set[FunctionType]:
    found: set[FunctionType] = set()
    waiting = list(functions)
    while waiting:
        function = inspect.unwrap(waiting.pop())
        if isinstance(function, FunctionType) and function not in found:
            found.add(function)
            waiting += _test_code(function)
    return found


@cache
def _test_code(function: FunctionType) -> list[Callable[..., Any]]:
    """The functions of tests that a function names, and the methods of their classes."""
    named = [function.__globals__.get(name) for name in _names(function.__code__)]
    mine = [value for value in named if str(getattr(value, "__module__", "")).startswith("tests")]
    parts = [part for value in mine for part in (vars(value).values() if isinstance(value, type) else [value])]
    return [part for part in parts if inspect.isfunction(part)]


@cache
def _named_needs(function: FunctionType) -> set[str]:
    names = set(_names(function.__code__))
    needs = {"ray"} & names
    if any(function.__globals__.get(name) is subprocess for name in names) and names & _STARTS:
        needs.add("process")
    return needs


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
