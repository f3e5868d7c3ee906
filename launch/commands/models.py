"""`partner-rl models`: fetch the embedded models and see what is cached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from launch.console import out, progress
from launch.options import dry_run_options, with_dry_run
from launch.preflight.command_plan import begin, stage_plan
from launch.preflight.inputs import model_fact
from partner_rl.models.embedded import EMBEDDED, embedded_folder
from partner_rl.models.random_models import RANDOM_MODELS, random_folder, random_source
from partner_rl.models.sources import resolve
from partner_rl.models.store import cache_folder, find_corruption, find_damage, read_manifest
from partner_rl.types import PartnerError

app = typer.Typer(help="Fetch and list the models that need no model hub.", no_args_is_help=True)

CacheOption = Annotated[
    Path | None, typer.Option("--cache-dir", help="Cache folder; default $PARTNER_RL_CACHE, else ~/.cache/partner-rl.")
]


@dataclass(frozen=True, slots=True)
class _ModelRow:
    """One line of the list."""

    name: str
    origin: str
    licence: str
    folder: Path
    source: str


@app.command("pull")
@with_dry_run
def pull_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Names as in the configuration; default: all embedded."),
    ] = None,
    cache_dir: CacheOption = None,
) -> None:
    """Fetch models into the cache; does nothing for those that are there.

    Example: partner-rl models pull pypi:all-minilm-l6-v2 random:llama
    """
    wanted = [_with_scheme(name) for name in names] if names else [f"pypi:{name}" for name in EMBEDDED]
    # Only shown: looking at a model that is built on use builds it.
    files = [] if dry_run_options() is None else [model_fact("NAME", name, cache_dir) for name in wanted]
    begin(stage_plan({cache_folder(cache_dir): "those of the models that are not there yet"}, files=files))
    for name in wanted:
        with progress(name) as report:
            folder = resolve(name, cache_dir, report)
        out.print(f"{name} → {folder}", soft_wrap=True)


@app.command("list")
def list_command(
    verify: Annotated[bool, typer.Option("--verify", help="Read every cached file and compare its checksum.")] = False,
    cache_dir: CacheOption = None,
) -> None:
    """List the models that need no hub, and which of them are cached.

    Example: partner-rl models list --verify
    """
    table = Table(box=SIMPLE_HEAD, title=f"Models in {cache_folder(cache_dir)}", title_justify="left")
    for heading in ("name", "source", "licence", "size", "cached"):
        justify: Literal["left", "right"] = "right" if heading == "size" else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading in ("name", "licence", "size"))
    corrupt: list[str] = []
    for row in _rows(cache_dir):
        manifest = read_manifest(row.folder)
        damage = (find_corruption if verify else find_damage)(row.folder, row.source)
        if damage is None:
            state = "yes, verified" if verify else "yes"
        elif manifest is None:
            state = "no"
        else:
            state = damage
            corrupt.append(row.name)
        size = f"{manifest.size / 1e6:,.1f} MB" if manifest else ""
        table.add_row(row.name, row.origin, row.licence, size, state)
    out.print(table)
    out.print("Any local folder and hf:ORG/NAME[@REVISION] (needs the hub) are names too.")
    if corrupt:
        raise PartnerError(
            f"{len(corrupt)} cached models are damaged or out of date: {', '.join(corrupt)}; "
            "delete their folders and run `partner-rl models pull`"
        )


def _with_scheme(name: str) -> str:
    return f"pypi:{name}" if name in EMBEDDED else name


def _rows(cache_dir: Path | None) -> Iterator[_ModelRow]:
    for name, model in EMBEDDED.items():
        folder = embedded_folder(model, cache_dir)
        yield _ModelRow(f"pypi:{name}", model.requirement, model.licence, folder, model.source)
    for name in RANDOM_MODELS:
        folder = random_folder(name, cache_dir)
        yield _ModelRow(f"random:{name}", "built here", "-", folder, random_source(name))
