"""Fetch the public EPITOME data set from its repository, or copy it from a folder."""

from __future__ import annotations

import http.client
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from partner_rl.data.epitome import EPITOME_FILES, epitome_folder
from partner_rl.data.readers import read_examples
from partner_rl.progress import Progress, no_progress, part_of
from partner_rl.storage.atomic import file_when_whole, folder_when_whole
from partner_rl.types import PartnerError

KIND: Final = "EPITOME"
"""What the output folder says that it is."""

EPITOME_URL: Final = "https://raw.githubusercontent.com/behavioral-data/Empathy-Mental-Health/HEAD/dataset"
"""Where the three public files are."""

_TIMEOUT_S: Final = 60.0
_CHUNK_BYTES: Final = 1 << 16


def pull_epitome(
    output: Path, source: Path | None = None, url: str = EPITOME_URL, progress: Progress = no_progress
) -> int:
    """Put the three EPITOME files into a folder; each is checked before any appears there.

    They are copied from the folder `source`, or fetched.

    Returns:
        The number of pairs that the files hold.

    Raises:
        PartnerError: The files cannot be fetched, read or written, or hold no pairs.
    """
    place = None if source is None else epitome_folder(source.expanduser())
    with folder_when_whole(output, KIND) as folder:
        for index, name in enumerate(EPITOME_FILES):
            if place is None:
                _fetch(f"{url}/{name}", folder / name, part_of(progress, index, len(EPITOME_FILES)))
            else:
                shutil.copyfile(Path(str(place.joinpath(name))), folder / name)
        pairs = len(read_examples(str(folder)).examples)
    progress(1, 1)
    return pairs


def _fetch(url: str, target: Path, progress: Progress) -> None:
    name, done = target.name, 0
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, file_when_whole(target) as file:
            announced = int(response.headers.get("Content-Length") or 0)
            while chunk := response.read(_CHUNK_BYTES):
                done += file.write(chunk)
                progress(done, max(done, announced))
    except urllib.error.HTTPError as error:
        raise PartnerError(f"cannot fetch {name}: {url} answered {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise PartnerError(
            f"cannot fetch {name} from {url}: {reason}; is this machine online? "
            "Copy the files from elsewhere and use --source FOLDER"
        ) from error
    if done < announced:
        raise PartnerError(f"fetching {name} broke off at {done} of {announced} bytes; try again")
