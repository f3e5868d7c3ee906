"""What a training began with, noted in its folder and compared where it goes on: settings, pairs and models.

`fingerprints.json` has the value of every key, and a fingerprint of each input that the training reads. A key may
change when the schema calls it adjustable, and an input may lie elsewhere as long as its content is the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from launch.run_folder.reader import dotted
from launch.run_folder.record import FINGERPRINTS_FILE, has_begun
from partner_rl.config.describe import describe_fields
from partner_rl.config.inputs import NamedInput, kinds_by_key, named_inputs
from partner_rl.config.paths import Kind
from partner_rl.config.schema import RunConfig
from partner_rl.storage.atomic import write_json
from partner_rl.storage.fingerprint import fingerprint_of_files, fingerprint_of_pairs
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from partner_rl.data.splits import Splits

logger = logging.getLogger(__name__)

_PLACES: Final = frozenset({"name", "runs_dir"})
"""Keys that say where a training lies, which its folder says itself."""


class InputError(PartnerError):
    """An input is gone or holds something else: with the right one in its place, the training can go on."""


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """A key with another value than the training began with."""

    key: str
    old: Any
    new: Any

    @property
    def is_of_place(self) -> bool:
        """Whether it names another place of an input, whose content must be the same."""
        kind = kinds_by_key().get(self.key)
        return kind is not None and kind.is_input and self.old is not None and self.new is not None


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What a training depends on: the value of each dotted key, and a fingerprint of each input by its key."""

    settings: Mapping[str, Any]
    inputs: Mapping[str, str]

    def changes(self, config: RunConfig) -> tuple[ChangedKey, ...]:
        """The keys in which a configuration differs."""
        now, defaults = settings_of(config), settings_of(RunConfig())
        found: dict[str, ChangedKey] = {}
        for key in sorted({*now, *self.settings}):
            section = next((name for name in now if key.startswith(f"{name}.")), None)
            if section is not None:
                # It has keys no more: it is null now.
                inside = {name: value for name, value in self.settings.items() if name.startswith(f"{section}.")}
                found[section] = ChangedKey(section, inside, None)
            elif (old := self._value(key, defaults)) != now.get(key):
                found[key] = ChangedKey(key, old, now.get(key))
        return tuple(found.values())

    def _value(self, key: str, defaults: Mapping[str, Any]) -> Any:
        """A key's value; None for the keys of a section that was null."""
        if key in self.settings or any(key.startswith(f"{section}.") for section in self.settings):
            return self.settings.get(key)
        # An earlier version did not know the key.
        return defaults.get(key)

    def followed_by(self, config: RunConfig, inputs: Sequence[NamedInput], splits: Splits | None) -> Fingerprints:
        """What is noted from now on; without `splits` the training reads no corpus.

        Raises:
            InputError: An input holds something else than at the beginning.
            PartnerError: An input cannot be read or fetched.
        """
        current = {one.key: found for one in inputs if (found := _fingerprint(config, one, splits)) is not None}
        chosen = adjustable_keys().intersection(change.key for change in self.changes(config))
        for one in inputs:
            before = self.inputs.get(one.key)
            if before is None or one.key in chosen or before == current.get(one.key, before):
                continue
            what = "pairs" if one.kind is Kind.CORPUS else "files"
            raise InputError(
                f"{one.key}: {one.name} does not hold the {what} that the training began with "
                f"({FINGERPRINTS_FILE}): put them back, or start anew"
            )
        return Fingerprints(settings_of(config), {**self.inputs, **current})

    def save(self, folder: Path) -> None:
        """Writes them into a training's folder."""
        write_json(folder / FINGERPRINTS_FILE, asdict(self))


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Dotted key → value, of all keys but those that say where a training lies."""
    values = dotted(config.model_dump(mode="json"))
    return {key: value for key, value in values.items() if key not in _PLACES}


def read_fingerprints(folder: Path) -> Fingerprints | None:
    """What a training's folder has noted; None where it has noted nothing.

    Raises:
        PartnerError: The file is damaged.
    """
    path = folder / FINGERPRINTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Fingerprints(dict(content["settings"]), dict(content["inputs"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PartnerError(f"{path} is damaged: remove it to go on without comparing data and models") from error


def fingerprints_at_start(folder: Path, config: RunConfig) -> Fingerprints:
    """What a training began with; the given settings where it has not begun, or not noted it, which is said."""
    has_to_know = has_begun(folder)
    found = read_fingerprints(folder) if has_to_know else None
    if has_to_know and (found is None or not found.inputs):
        logger.warning("%s does not say what it began with: its data and models are taken as they are now", folder)
    return found or Fingerprints(settings_of(config), {})


def allowed_changes(
    began: Fingerprints, config: RunConfig, source: str, *, keeps: Collection[str] = ()
) -> tuple[ChangedKey, ...]:
    """The keys that have another value than at the beginning, all of which may.

    `source` is what messages call the configuration; `keeps` are adjustable keys that this kind of training keeps all
    the same.

    Raises:
        PartnerError: A key differs that may not.
    """
    changes = began.changes(config)
    may = adjustable_keys().difference(keeps)
    fixed = [change for change in changes if change.key not in may and not change.is_of_place]
    if fixed:
        one = fixed[0]
        others = f" (and {', '.join(change.key for change in fixed[1:])})" if fixed[1:] else ""
        raise PartnerError(
            f"{source}: {one.key}={_shown(one.new)}{others}: it began with {_shown(one.old)} and depends on it: keep "
            f"that, or start another one; what may change is {_adjustable(may)}"
        )
    return changes


def adjustable_keys() -> set[str]:
    """The keys that the schema allows to change."""
    return {field.key for field in describe_fields() if field.is_adjustable}


def _adjustable(keys: Collection[str]) -> str:
    """The keys that may change, in a few words: sections of which most may, and the iterations."""
    leaves = [field.key for field in describe_fields() if not field.is_section]
    words = [key for key in ("algorithm.iterations",) if key in keys]
    for section in dict.fromkeys(key.partition(".")[0] for key in leaves if "." in key):
        inside = [key for key in leaves if key.startswith(f"{section}.")]
        fixed = [key.removeprefix(f"{section}.") for key in inside if key not in keys]
        if 2 * len(fixed) < len(inside):
            words.append(f"{section}.*" + (f" (not {', '.join(fixed)})" if fixed else ""))
    return ", ".join(words) + " and what docs/configuration.md marks with ↻"


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def inputs_of(config: RunConfig, keys: Collection[str], changes: Sequence[ChangedKey] = ()) -> tuple[NamedInput, ...]:
    """The inputs that a training reads from here on, by their keys, and those whose place has changed."""
    read = {*keys, *(change.key for change in changes)}
    return tuple(one for one in named_inputs(config) if one.key in read)


def check_present(inputs: Sequence[NamedInput], how: str) -> None:
    """Refuses inputs that are not there any more; `how` is the command that goes on with the training.

    Raises:
        InputError: One is gone.
    """
    for one in inputs:
        if one.path is not None and not one.path.exists():
            raise InputError(
                f"{one.key}: {one.path} is gone: put it back, or name where it is now: {how} {one.key}=PLACE"
            )


def _fingerprint(config: RunConfig, one: NamedInput, splits: Splits | None) -> str | None:
    # Torch takes seconds to import.
    from partner_rl.models.sources import resolve

    if one.kind is Kind.CORPUS:
        return None if splits is None else fingerprint_of_pairs(splits.train, splits.dev, splits.test)
    if one.kind.is_model:
        cache = config.models.cache_dir
        return fingerprint_of_files(resolve(one.name, None if cache is None else Path(cache)))
    return fingerprint_of_files(Path(one.name))
