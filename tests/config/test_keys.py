"""Every configuration key is read by some code, through its own section."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest

from partner_rl.config.reward_schema import RewardsConfig
from partner_rl.config.schema import RunConfig
from partner_rl.config.section import Section

ROOT = Path(__file__).parents[2]
SCHEMA = {"schema.py", "reward_schema.py", "guard_schema.py", "section.py"}
BY_NAME = {
    "guards": "guards compare each value with the limit of its name (`partner_rl.algorithm.guard_limits`)",
    "resources.placement": "`PlacementConfig.share` reads the one that it is asked for",
}


_DECLARATIONS = (ast.arg, ast.FunctionDef, ast.ClassDef, ast.AnnAssign)
_BINDING = (*_DECLARATIONS, ast.Assign, ast.For, ast.comprehension, ast.NamedExpr, ast.Call)


def sections(kind: type[Section] = RunConfig) -> dict[type[Section], str]:
    """The section classes and the dotted place of one field of each."""
    found: dict[type[Section], str] = {kind: ""}
    for name, field in kind.model_fields.items():
        for inner in _classes(field.annotation):
            for section, place in sections(inner).items():
                found.setdefault(section, f"{name}.{place}")
    return found


def _classes(annotation: object) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


class Reads:
    """The fields of sections that sources read.

    What a name holds is told by annotations, assignments, loops and `isinstance`, in its own module; what an attribute
    or a call holds, by those of all modules and by the schema. It may be several sections.
    """

    def __init__(self, trees: Sequence[ast.AST]) -> None:
        self.kinds = {kind.__name__: kind for kind in _all_kinds()}
        self.shared: defaultdict[str, set[type[Section]]] = defaultdict(set)
        for kind in sections():
            for name, field in kind.model_fields.items():
                self.shared[f".{name}"].update(_classes(field.annotation))
        for function, value in inspect.getmembers(RewardsConfig, inspect.isfunction):
            self.shared[f"{function}()"] |= self.annotated(ast.parse(str(value.__annotations__.get("return"))))
        self.found: set[tuple[type[Section], str]] = set()
        modules = [([*ast.walk(tree)], defaultdict[str, set[type[Section]]](set)) for tree in trees]
        binding = [([node for node in nodes if isinstance(node, _BINDING)], own) for nodes, own in modules]
        size = -1
        while size != (size := self._size(own for _, own in modules)):
            for nodes, self.own in binding:
                for node in nodes:
                    self.take(node)
        for nodes, self.own in modules:
            for node in nodes:
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    kinds = self.held(node.value)
                    self.found |= {(kind, node.attr) for kind in kinds if node.attr in kind.model_fields}

    def _size(self, holders: Iterable[Mapping[str, set[type[Section]]]]) -> int:
        return sum(len(kinds) for one in (self.shared, *holders) for kinds in one.values())

    def annotated(self, node: ast.AST | None) -> set[type[Section]]:
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node is not None else set()
        return {self.kinds[name] for name in names & self.kinds.keys()}

    def held(self, node: ast.expr) -> set[type[Section]]:
        match node:
            case ast.Name(id=name):
                return self.own[name]
            case ast.Attribute(attr=name):
                return self.shared[f".{name}"]
            case ast.Call(func=ast.Attribute(value=value, attr="model_copy" | "items" | "values" | "get")):
                return self.held(value)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                return {self.kinds[name]} if name in self.kinds else self.shared[f"{name}()"]
            case ast.IfExp(body=first, orelse=second) | ast.BoolOp(values=[first, second]):
                return self.held(first) | self.held(second)
            case ast.Subscript(value=value):
                return self.held(value)
        return set()

    def bind(self, target: ast.expr, kinds: set[type[Section]]) -> None:
        match target:
            case ast.Name(id=name):
                self.own[name] |= kinds
            case ast.Attribute(attr=name):
                self.shared[f".{name}"] |= kinds
            case ast.Tuple(elts=parts):
                for part in parts:
                    self.bind(part, kinds)

    def take(self, node: ast.AST) -> None:
        if isinstance(node, _DECLARATIONS):
            self._declare(node)
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                for one, value in zip(targets, values, strict=True):
                    self.bind(one, self.held(value))
            case ast.Assign(targets=[target], value=value) | ast.For(target=target, iter=value):
                self.bind(target, self.held(value))
            case ast.comprehension(target=target, iter=value) | ast.NamedExpr(target=target, value=value):
                self.bind(target, self.held(value))
            case ast.Call(func=ast.Name(id="isinstance"), args=[checked, kind]):
                self.bind(checked, self.annotated(kind))

    def _declare(self, node: ast.AST) -> None:
        match node:
            case ast.arg(arg=name, annotation=annotation):
                self.own[name] |= self.annotated(annotation)
            case ast.FunctionDef(name=name, returns=returns):
                self.shared[f"{name}()"] |= self.annotated(returns)
            case ast.ClassDef(body=body):
                for part in body:
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        self.shared[f".{part.target.id}"] |= self.annotated(part.annotation)
            case ast.AnnAssign(target=target, annotation=annotation):
                self.bind(target, self.annotated(annotation))


def _all_kinds() -> set[type[Section]]:
    """The section classes and those that they inherit from."""
    return {base for kind in sections() for base in kind.__mro__ if issubclass(base, Section) and base is not Section}


def unread(sources: Sequence[str]) -> list[str]:
    """Keys that no code reads; a key of several sections must be read of each, or of what they inherit it from."""
    read = Reads([ast.parse(source) for source in sources]).found
    return [
        f"{place}{name}"
        for kind, place in sections().items()
        for name, field in kind.model_fields.items()
        if not list(_classes(field.annotation))
        and place.rstrip(".") not in BY_NAME
        and not any((base, name) in read for base in _all_kinds() if issubclass(kind, base))
    ]


@pytest.fixture(scope="module")
def sources() -> list[str]:
    folders = ("partner_rl", "launch", "rewards", "envs")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path.name not in SCHEMA]
    return [path.read_text(encoding="utf-8") for path in paths]


def test_every_key_is_read(sources: list[str]) -> None:
    assert unread(sources) == []


def test_a_key_that_nothing_reads_is_found(sources: list[str]) -> None:
    assert unread([source.replace("kl_horizon", "planted") for source in sources]) == ["algorithm.kl_horizon"]


def test_a_key_is_not_read_where_another_section_has_one_of_its_name() -> None:
    found = unread(["def steps(config: RunConfig): settings = config.warmstart; return settings.batch_size"])
    assert "evaluation.batch_size" in found
    assert "warmstart.batch_size" not in found
