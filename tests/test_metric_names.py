"""Every metric key is declared in `partner_rl.metric_names`, documented, and written by some code."""

from __future__ import annotations

import ast
import inspect
import re
from collections import Counter
from pathlib import Path

from partner_rl import metric_names
from tests.helpers.metric_keys import constants, documented, undeclared

ROOT = Path(__file__).parents[1]
SOURCES = {
    path: path.read_text(encoding="utf-8")
    for folder in ("partner_rl", "launch", "rewards", "envs")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(metric_names.__file__)
}
KEY = re.compile(r"(reward|policy|train|time|throughput|guard|machine|system|warmstart)/\S*")


def key_literals(source: str) -> list[str]:
    """Strings of a source that look like metric keys, docstrings aside; of a formatted one its fixed parts."""
    nodes = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [value for value in nodes if isinstance(value, str) and KEY.fullmatch(value)]


def test_no_source_spells_a_key_out() -> None:
    assert {str(path): found for path, source in SOURCES.items() if (found := key_literals(source))} == {}


def test_a_key_that_is_spelt_out_is_found() -> None:
    source = 'def log(name):\n    """reward/raw/x is logged"""\n    return {"train/loss": 1.0, f"guard/{name}": 2.0}'
    assert key_literals(source) == ["train/loss", "guard/"]


def test_every_declared_key_is_used() -> None:
    words = Counter(re.findall(r"\w+", "\n".join((*SOURCES.values(), inspect.getsource(metric_names)))))
    functions = [name for name, _ in inspect.getmembers(metric_names, inspect.isfunction)]
    # Each stands once where it is declared.
    assert [name for name in (*constants(), *functions) if words[name] == 1] == []


def test_every_key_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "tracking.md").read_text(encoding="utf-8")
    rows = [f"| `{key}` | {text} |" for key, text in documented().items()]
    assert [row for row in rows if row not in page or row.endswith("|  |")] == []


def test_a_key_that_is_not_declared_is_found() -> None:
    known = ["step", "reward/raw/empathy", "policy/position/replace_2", "guard/alarms", "machine/memory"]
    assert undeclared([*known, "reward/raw/mystery", "policy/new", "guard/planted"]) == [
        "guard/planted",
        "policy/new",
        "reward/raw/mystery",
    ]
