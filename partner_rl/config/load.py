"""From a preset or a YAML file and overrides to a checked `RunConfig`, and back to a file.

Every mistake becomes one line that names the file, the key, what was expected and what was given; an unknown key
comes with the nearest valid one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from partner_rl.config.describe import describe_fields
from partner_rl.config.inputs import kinds_by_key, resolve_paths, value_of
from partner_rl.config.paths import absolute_path
from partner_rl.config.schema import RunConfig
from partner_rl.config.yaml_text import dump_yaml, parse_yaml
from partner_rl.storage.atomic import write_text
from partner_rl.types import PartnerError

PRESETS_DIR = Path(__file__).parent / "presets"
_SHOWN_ERRORS = 3
_TEXTS = ("text", "text or null")
"""The types, in words, of keys that take any text."""


class Assignment(NamedTuple):
    """A key and its value as it is, which no YAML is read from: what an option or a sweep sets."""

    key: str
    value: Any

    def __str__(self) -> str:
        """As a user writes it; JSON is YAML."""
        return f"{self.key}={json.dumps(self.value, ensure_ascii=False, default=str)}"


Override = str | Assignment
"""A `KEY=VALUE` text of a user, or an assignment of ours."""


def preset_names() -> tuple[str, ...]:
    """The names of the presets that ship with the package, sorted."""
    return tuple(sorted(path.stem for path in PRESETS_DIR.glob("*.yaml")))


def load_config(path_or_preset: str, overrides: Iterable[Override] = ()) -> RunConfig:
    """Reads and checks a configuration; paths in it become absolute.

    Relative paths of a file start from the file's folder, those of overrides and defaults from the working directory.

    Args:
        path_or_preset: The name of a preset (`smoke`), or the path of a YAML file. Keys that it leaves out have
            their defaults.
        overrides: `a.b.c=value` texts, as the command line gives them, and assignments. The value of a text is YAML,
            but a key that takes text takes it as it stands, unless it is quoted or `null`. A value replaces what was
            there, a whole section included; a key of a section that is null creates the section.

    Raises:
        PartnerError: There is no such preset or file, it is no YAML, or a key or value is wrong.
    """
    values, source, folder = _read(path_or_preset)
    changes = [_parse_override(one) if isinstance(one, str) else _known(one) for one in overrides]
    try:
        values = resolve_paths(values, "", folder)
    except PartnerError as error:
        raise PartnerError(f"{source}: {error}") from error
    for key, value in changes:
        try:
            _assign(values, key, resolve_paths(value, key, None))
        except PartnerError as error:
            raise PartnerError(f"override {error}") from error
    _add_default_paths(values)
    return _validate(values, source, frozenset(key for key, _ in changes))


def assignments(values: Mapping[str, Any]) -> list[Assignment]:
    """Dotted key → plain value, as overrides."""
    return [Assignment(key, value) for key, value in values.items()]


def given(options: Mapping[str, Any]) -> list[Assignment]:
    """What the options of a command set, as overrides.

    An option that was not given is None.
    """
    return assignments({key: value for key, value in options.items() if value is not None})


def save_config(config: RunConfig, path: Path) -> None:
    """Writes every key of the configuration as YAML; `load_config(str(path))` gives the same configuration back.

    The file appears whole or not at all.
    """
    write_text(path, config_yaml(config))


def config_yaml(config: RunConfig) -> str:
    """The configuration with every key as YAML text."""
    return dump_yaml(config.model_dump(mode="json"))


def _read(path_or_preset: str) -> tuple[dict[str, Any], str, Path]:
    """The raw values of a preset or file, what to call it in messages, and the folder that it lies in."""
    if path_or_preset in preset_names():
        path, source = PRESETS_DIR / f"{path_or_preset}.yaml", f"preset {path_or_preset}"
    else:
        path, source = absolute_path(path_or_preset), path_or_preset
    try:
        return read_mapping(path, source), source, path.parent
    except FileNotFoundError as error:
        nearest = _nearest(path.stem, preset_names())
        hint = f"did you mean {nearest}?" if nearest else f"the presets are {', '.join(preset_names())}"
        raise PartnerError(f"there is no preset or file '{path_or_preset}'; {hint}") from error


def read_mapping(path: Path, source: str) -> dict[str, Any]:
    """The keys and values of a YAML file, which messages call `source`.

    Raises:
        FileNotFoundError: There is no such file.
        PartnerError: It cannot be read, is no YAML, or has something else at the top.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PartnerError(f"{source}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise PartnerError(f"{source}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except ValueError as error:
        raise PartnerError(f"{source}: is no valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise PartnerError(f"{source}: expected keys and values at the top, got {shown(values)}")
    return values


def _known(one: Assignment) -> Assignment:
    """An assignment with a plain value.

    Raises:
        PartnerError: There is no such key.
    """
    if one.key not in {field.key for field in describe_fields()}:
        raise PartnerError(f"override {one.key}: {_unknown_key(one.key)}")
    return Assignment(one.key, str(one.value)) if isinstance(one.value, Path) else one


def _parse_override(text: str) -> Assignment:
    """The assignment that a `KEY=VALUE` text stands for.

    Raises:
        PartnerError: It is no such text, its value is no YAML, or there is no such key.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise PartnerError(f"override '{text}': expected KEY=VALUE, such as algorithm.iterations=5")
    kinds = next((field.type for field in describe_fields() if field.key == key), "")
    if kinds in _TEXTS:
        return Assignment(key, _text(value, optional=kinds != _TEXTS[0]))
    try:
        return _known(Assignment(key, parse_yaml(value)))
    except ValueError as error:
        raise PartnerError(f"override {key}: the value is no valid YAML ({error}); put it in quotes") from error


def _text(value: str, *, optional: bool) -> str | None:
    """What a text key is set to: the value as it stands; quotes around it are YAML's, and `null` is nothing."""
    if value[:1] in ("'", '"') or optional:
        with contextlib.suppress(ValueError):
            read = parse_yaml(value)
            if (isinstance(read, str) and value[:1] in ("'", '"')) or (read is None and optional):
                return read
    return value


def _assign(values: dict[str, Any], dotted_key: str, value: Any) -> None:
    """Sets one dotted key in nested mappings, creating sections that are missing or null."""
    *sections, last = dotted_key.split(".")
    for name in sections:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[last] = value


def _add_default_paths(values: dict[str, Any]) -> None:
    """Sets the keys that are left out and have a path for a default."""
    defaults = RunConfig()
    for key in kinds_by_key():
        default = value_of(defaults, key)
        resolved = resolve_paths(default, key, None)
        if resolved != default and _lacks(values, key):
            _assign(values, key, resolved)


def _lacks(values: Any, dotted_key: str) -> bool:
    """Whether nested mappings leave a key out; what is no mapping is an error that others tell."""
    for name in dotted_key.split("."):
        if not isinstance(values, dict):
            return False
        if name not in values:
            return True
        values = values[name]
    return False


def _validate(values: dict[str, Any], source: str, overridden: frozenset[str]) -> RunConfig:
    try:
        return RunConfig.model_validate_json(json_document(values, source))
    except ValidationError as error:
        problems = [_problem(details, source, overridden) for details in error.errors(include_url=False)]
    raise PartnerError(first_problems(problems))


def json_document(values: Mapping[str, Any], source: str) -> str:
    """Values as JSON, because strict validation takes a list for a tuple there and nothing else loosely."""
    try:
        return json.dumps(values, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise PartnerError(f"{source}: {error}; values are numbers, texts, true, false, null and lists") from error


def first_problems(problems: Sequence[str]) -> str:
    """The first of several problems, and how many more there are, in one line."""
    more = f"; and {len(problems) - _SHOWN_ERRORS} more" if len(problems) > _SHOWN_ERRORS else ""
    return "; ".join(problems[:_SHOWN_ERRORS]) + more


def _plain(value: object) -> object:
    """A NumPy scalar, as a sweep samples it, as a plain number."""
    item = getattr(value, "item", None)
    if not callable(item):
        raise TypeError(f"a value is of type {type(value).__name__}")
    return item()


def _problem(details: ErrorDetails, source: str, overridden: frozenset[str]) -> str:
    """One validation error in one line: where, which key, what is wrong."""
    key = ".".join(part for part in details["loc"] if isinstance(part, str))
    where = f"{source}: {key}"
    if any(key == given or key.startswith(f"{given}.") for given in overridden):
        where = f"override {key}"
    elif details["type"] == "value_error" and any(given.startswith(key) for given in overridden):
        where = f"{source} with overrides: {key}"
    if details["type"] == "extra_forbidden":
        return f"{where}: {_unknown_key(key)}"
    if details["type"] == "value_error":
        return f"{where}: {details['ctx']['error']}"
    expected = next((field.type for field in describe_fields() if field.key == key), "a value")
    given = details["input"]
    hint = " (write it in quotes)" if expected.startswith("text") and isinstance(given, (int, float)) else ""
    return f"{where}: expected {expected}, got {shown(given)}{hint}"


def _unknown_key(key: str) -> str:
    """Says that a key does not exist, and which one may have been meant."""
    fields = [field.key for field in describe_fields()]
    if key in fields:
        return "unknown key; dotted keys are for overrides, in a file the key stands inside its section"
    section, _, name = key.rpartition(".")
    siblings = [field for field in fields if field.rpartition(".")[0] == section]
    elsewhere = [field for field in fields if field.rpartition(".")[2] == name]
    nearest = _nearest(key, siblings) or " or ".join(elsewhere[:_SHOWN_ERRORS]) or _nearest(key, fields)
    if nearest:
        return f"unknown key; did you mean {nearest}?"
    return (
        f"unknown key; valid here: {', '.join(siblings)}" if siblings else "unknown key; see `partner-rl config docs`"
    )


def _nearest(given: str, valid: Iterable[str]) -> str:
    """The valid name nearest to a given one, compared by the last part; empty when none is near."""
    by_last_part = {name.rpartition(".")[2]: name for name in valid}
    last_part = given.rpartition(".")[2]
    matches = get_close_matches(last_part, by_last_part, n=1, cutoff=0.6)
    return by_last_part[matches[0]] if matches else ""


def shown(value: object, limit: int = 60) -> str:
    """A given value as the user wrote it, in one short line."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
