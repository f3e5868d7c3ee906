"""The metric keys that `partner_rl.metric_names` declares."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from partner_rl import metric_names as names
from partner_rl.algorithm.guard_limits import LIMITS
from partner_rl.config.reward_schema import RewardsConfig

_MAX_WINDOW = 16
_WITHOUT_LIMIT = ("alarms", "judge_gain", "reward_gain", "judge_correlation")


def constants() -> dict[str, str]:
    """Name → key; beginnings of keys are left out."""
    found = {name: value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    return {name: value for name, value in found.items() if not value.endswith("/")}


def _functions() -> list[Callable[[str], str]]:
    """Those that make a key from one word."""
    found = [f for _, f in inspect.getmembers(names, inspect.isfunction) if f.__module__ == names.__name__]
    return [function for function in found if function not in (names.position_share, names.position_shares)]


def documented() -> dict[str, str]:
    """Key, with what varies in capitals → what `partner_rl.metric_names` says of it in one paragraph."""
    body = ast.parse(inspect.getsource(names)).body
    texts: dict[str, str] = {}
    for node, following in zip(body, [*body[1:], None], strict=True):
        match node, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = text
    found = {key: texts.get(name, "") for name, key in constants().items()}
    for function in _functions():
        found[function(*map(str.upper, inspect.signature(function).parameters))] = function.__doc__ or ""
    found[names.position_share(0, 1).replace("0", "N")] = names.position_share.__doc__ or ""
    return {key: " ".join(text.partition("\n\n")[0].split()) for key, text in found.items()}


def undeclared(keys: Iterable[str]) -> list[str]:
    """Those that are no declared key, sorted; components and guards are those that there are."""
    words = {
        "component": tuple(RewardsConfig().components()),
        "guard": (*_WITHOUT_LIMIT, *(guard.name for guard in LIMITS if not guard.of_machine)),
        "machine": ("alarms", "memory", *(guard.name for guard in LIMITS if guard.of_machine)),
    }
    patterns = {*constants().values(), *names.position_shares(_MAX_WINDOW)}
    for function in _functions():
        parameters = list(inspect.signature(function).parameters)
        for word in words.get(parameters[0], words.get(function.__name__, ("*",))):
            patterns.add(function(word, *("*" for _ in parameters[1:])))
    return sorted(key for key in set(keys) if not any(fnmatchcase(key, pattern) for pattern in patterns))
