"""From a preset or a YAML file and overrides to a checked `RunConfig`, and back to a file.

Every mistake becomes one line that names the file, the key, what was expected and what was given; an unknown key
comes with the nearest valid one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from partner_rl.config.describe import describe_fields
from partner_rl.config.schema import RunConfig
from partner_rl.config.yaml_text import dump_yaml, parse_yaml
from partner_rl.types import PartnerError

PRESETS_DIR = Path(__file__).parent / "presets"
_SHOWN_ERRORS = 3


def preset_names() -> tuple[str, ...]:
    """The names of the presets that ship with the package, sorted."""
    return tuple(sorted(path.stem for path in PRESETS_DIR.glob("*.yaml")))


def config_name(path_or_preset: str) -> str:
    """The preset's name, or the file's name without its ending: what a run folder is called after."""
    return Path(path_or_preset).stem


def load_config(path_or_preset: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> RunConfig:
    """Reads and checks a configuration.

    Args:
        path_or_preset: The name of a preset (`smoke`), or the path of a YAML file. Keys that it leaves out have
            their defaults.
        overrides: `a.b.c=value` texts whose values are YAML, as the command line gives them; or dotted keys with
            plain values, as a sweep gives them. A value replaces what was there, a whole section included; a key of a
            section that is null creates the section.

    Raises:
        PartnerError: There is no such preset or file, it is no YAML, or a key or value is wrong.
    """
    values, source = _read(path_or_preset)
    assignments = _assignments(overrides)
    for key, value in assignments:
        _assign(values, key, value)
    return _validate(values, source, frozenset(key for key, _ in assignments))


def save_config(config: RunConfig, path: Path) -> None:
    """Writes every key of the configuration as YAML; `load_config(str(path))` gives the same configuration back.

    The file appears whole or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(config_yaml(config), encoding="utf-8")
    os.replace(unfinished, path)


def config_yaml(config: RunConfig) -> str:
    """The configuration with every key as YAML text."""
    return dump_yaml(config.model_dump(mode="json"))


def _read(path_or_preset: str) -> tuple[dict[str, Any], str]:
    """The raw values of a preset or file, and what to call it in messages."""
    if path_or_preset in preset_names():
        path, source = PRESETS_DIR / f"{path_or_preset}.yaml", f"preset {path_or_preset}"
    else:
        path, source = Path(path_or_preset), path_or_preset
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        nearest = _nearest(path_or_preset, preset_names())
        hint = f"did you mean {nearest}?" if nearest else f"the presets are {', '.join(preset_names())}"
        raise PartnerError(f"there is no preset or file '{path_or_preset}'; {hint}") from error
    except OSError as error:
        raise PartnerError(f"{source}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise PartnerError(f"{source}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except ValueError as error:
        raise PartnerError(f"{source}: is no valid YAML: {error}") from error
    if values is None:
        return {}, source
    if not isinstance(values, dict):
        raise PartnerError(f"{source}: expected keys and values at the top, got {_shown(values)}")
    return values, source


def _assignments(overrides: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Overrides as pairs of dotted key and plain value, in the order given.

    Raises:
        PartnerError: An override is not `key=value`, its value is no YAML, or its key does not exist.
    """
    if isinstance(overrides, Mapping):
        assignments = [(str(key), value) for key, value in overrides.items()]
    else:
        assignments = [_parse_override(text) for text in overrides]
    known = {field.key for field in describe_fields()}
    for key, _ in assignments:
        if key not in known:
            raise PartnerError(f"override {key}: {_unknown_key(key)}")
    return assignments


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise PartnerError(f"override '{text}': expected KEY=VALUE, such as algorithm.iterations=5")
    try:
        return key, parse_yaml(value)
    except ValueError as error:
        raise PartnerError(f"override {key}: the value is no valid YAML ({error}); put it in quotes") from error


def _assign(values: dict[str, Any], dotted_key: str, value: Any) -> None:
    """Sets one dotted key in nested mappings, creating sections that are missing or null."""
    *sections, last = dotted_key.split(".")
    for name in sections:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[last] = value


def _validate(values: dict[str, Any], source: str, overridden: frozenset[str]) -> RunConfig:
    try:
        # Through JSON, because strict validation takes a list for a tuple there and nothing else loosely.
        document = json.dumps(values, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise PartnerError(f"{source}: {error}; values are numbers, texts, true, false, null and lists") from error
    try:
        return RunConfig.model_validate_json(document)
    except ValidationError as error:
        problems = [_problem(details, source, overridden) for details in error.errors(include_url=False)]
    shown = "; ".join(problems[:_SHOWN_ERRORS])
    more = f"; and {len(problems) - _SHOWN_ERRORS} more" if len(problems) > _SHOWN_ERRORS else ""
    raise PartnerError(shown + more)


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
    return f"{where}: expected {expected}, got {_shown(given)}{hint}"


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


def _shown(value: object, limit: int = 60) -> str:
    """A given value as the user wrote it, in one short line."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
