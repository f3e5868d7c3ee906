"""Commands in the documents exist with the options that they are shown with; links lead to files; keys are real."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from partner_rl.config.load import load_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    found = []
    for document in DOCUMENTS:
        for block in BLOCK.findall(document.read_text(encoding="utf-8")):
            lines = [line.partition(" #")[0].strip() for line in block.splitlines()]
            found += [line for line in lines if line.removeprefix(".venv/bin/").startswith("partner-rl ")]
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_parses(line):
    arguments = shlex.split(line)[1:]
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert result.exit_code == 0, result.output
    overrides = [a for a in arguments[1:] if re.fullmatch(r"[a-z_.]+=\S+", a)]
    load_config("smoke", overrides)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
