"""Jinja templates of reports."""

from __future__ import annotations

from pathlib import Path

import jinja2


def template_environment(folder: Path, *, autoescape: bool) -> jinja2.Environment:
    """The templates of a folder, in which a name that is not given is an error; `autoescape` is for HTML."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
