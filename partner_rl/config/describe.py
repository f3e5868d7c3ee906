"""What every configuration key is: its type in words, its default, its documentation.

All of it is read from the JSON schema that pydantic derives from `partner_rl.config.schema`, so that error messages
and `docs/configuration.md` say what the schema checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from partner_rl.config.schema import RunConfig

_TYPE_WORDS = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "section (a mapping of keys)",
}
_BOUNDS = (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """One key of the configuration.

    Attributes:
        key: Dotted key, such as `algorithm.learning_rate`.
        type: What the key accepts, in words.
        default: The default as a user writes it; empty for a section that is on.
        documentation: What the key does.
        is_section: Whether the key holds further keys.
    """

    key: str
    type: str
    default: str
    documentation: str
    is_section: bool


@lru_cache(maxsize=1)
def describe_fields() -> tuple[KeyDescription, ...]:
    """Every key of `RunConfig` in the order of the schema; a section stands before its keys."""
    schema = RunConfig.model_json_schema()
    return tuple(_walk(schema, schema["$defs"], prefix=""))


def _walk(section: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[KeyDescription]:
    for name, field in section["properties"].items():
        key = prefix + name
        subsection = _subsection(field, definitions)
        optional = any(option.get("type") == "null" for option in field.get("anyOf", ()))
        yield KeyDescription(
            key=key,
            type=_type_in_words(field),
            default="" if subsection and not optional else _literal(field.get("default")),
            documentation=_one_line((subsection if subsection and not optional else field).get("description", "")),
            is_section=subsection is not None,
        )
        if subsection is not None:
            yield from _walk(subsection, definitions, prefix=f"{key}.")


def _subsection(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of the section that a field holds, or None for a plain value."""
    for option in (field, *field.get("anyOf", ())):
        if "$ref" in option:
            definition: Mapping[str, Any] = definitions[option["$ref"].rsplit("/", 1)[1]]
            return definition
    return None


def _type_in_words(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type_in_words(option) for option in field["anyOf"])
    if "$ref" in field:
        return _TYPE_WORDS["object"]
    if "enum" in field:
        return "one of " + ", ".join(f"'{choice}'" for choice in field["enum"])
    if field["type"] == "array":
        return f"list of {_type_in_words(field['items'])}"
    words = _TYPE_WORDS[field["type"]]
    bounds = [f"{sign} {_literal(field[name])}" for name, sign in _BOUNDS if name in field]
    return " ".join([words, " and ".join(bounds)]).strip()


def _literal(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def configuration_markdown() -> str:
    """The text of `docs/configuration.md`: one table per section of the configuration."""
    lines = [
        "# Configuration",
        "",
        "<!-- Generated from partner_rl/config/schema.py by `partner-rl config docs`. Change the schema, not this page. -->",
        "",
        "A run is configured by a preset (`partner-rl config show smoke`) or a YAML file, and by dotted overrides on the",
        "command line: `partner-rl train --preset embedded rewards.empathy.weight=0.5 policy.lora.rank=8`. The value of an",
        "override is YAML; it replaces what was there. Setting a key of a section that is `null` creates the section.",
    ]
    fields = describe_fields()
    lines += _table("The run", "", fields)
    for section in (field for field in fields if field.is_section):
        lines += _table(f"`{section.key}`", section.documentation, fields, prefix=f"{section.key}.")
    return "\n".join(lines) + "\n"


def _table(title: str, introduction: str, fields: tuple[KeyDescription, ...], prefix: str = "") -> list[str]:
    rows = [
        f"| `{field.key}` | {_cell(field.type)} | {_cell(f'`{field.default}`')} | {_cell(field.documentation)} |"
        for field in fields
        if field.key.startswith(prefix)
        and "." not in field.key[len(prefix) :]
        and (field.default or not field.is_section)
    ]
    if not rows:
        return []
    introduction_lines = [introduction, ""] if introduction else []
    return [
        "",
        f"## {title}",
        "",
        *introduction_lines,
        "| key | type | default | meaning |",
        "|---|---|---|---|",
        *rows,
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
