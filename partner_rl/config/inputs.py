"""Which keys of the configuration name something on disk, and what a configuration names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from partner_rl.config.paths import Kind, Names, is_bare_name, is_unicode, resolved
from partner_rl.config.schema import RunConfig
from partner_rl.types import PartnerError


@dataclass(frozen=True, slots=True)
class NamedInput:
    """Something that a key or an option names, and that must be there before a run starts.

    Attributes:
        name: The name or absolute path.
    """

    key: str
    kind: Kind
    name: str

    @property
    def path(self) -> Path | None:
        """Where it lies; None for a name such as `sample` or `pypi:…`."""
        return None if is_bare_name(self.kind, self.name) else Path(self.name)


@lru_cache(maxsize=1)
def kinds_by_key() -> Mapping[str, Kind]:
    """Dotted key → what it names, in the order of the schema."""
    return MappingProxyType(dict(_walk(RunConfig, "")))


def _walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, Kind]]:
    for name, field in section.model_fields.items():
        markers = [part for part in (*field.metadata, *_parts(field)) if isinstance(part, Names)]
        if markers:
            yield prefix + name, markers[0].kind
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, f"{prefix}{name}.")


def _parts(field: FieldInfo) -> Iterator[object]:
    """What the options of a union are annotated with."""
    for option in get_args(field.annotation):
        yield from getattr(option, "__metadata__", ())


def named_inputs(config: RunConfig) -> tuple[NamedInput, ...]:
    """Everything that the configuration names as an input, in the order of the schema, whoever uses it."""
    found = ((key, kind, value_of(config, key)) for key, kind in kinds_by_key().items() if kind.is_input)
    return tuple(NamedInput(key, kind, name) for key, kind, name in found if name is not None)


def input_paths(config: RunConfig) -> list[Path]:
    """Where everything lies that the configuration names as an input."""
    return [one.path for one in named_inputs(config) if one.path is not None]


def value_of(config: RunConfig, key: str) -> Any:
    """The value of a dotted key."""
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name)
    return found


def resolve_paths(value: Any, key: str, seen_from: Path | None) -> Any:
    """A plain value with the paths in it made absolute.

    The value is a text, or the mapping of a section; the key is empty for the whole configuration. Relative paths start
    from `seen_from`, or from the working directory.

    Raises:
        PartnerError: A text is not Unicode, or can be no path; the message begins with its key.
    """
    if isinstance(value, dict):
        prefix = f"{key}." if key else ""
        return {name: resolve_paths(inner, f"{prefix}{name}", seen_from) for name, inner in value.items()}
    if not isinstance(value, str):
        return value
    if not is_unicode(value):
        raise PartnerError(f"{key}: is not UTF-8 text: rename what it names, or write it without such characters")
    kind = kinds_by_key().get(key)
    if kind is None:
        return value
    try:
        return resolved(kind, value, seen_from)
    except PartnerError as error:
        raise PartnerError(f"{key}: {error}") from error
