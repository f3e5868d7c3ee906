"""Tests of the table, the printed rewrites and the summary."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from envs import rewriting
from envs.rewriting import Edit
from partner_rl.config.schema import EnvConfig
from partner_rl.evaluation.report import INSERTED, STRUCK, marked_response, print_rewrites, printed_table
from partner_rl.evaluation.result import Group, MetricEstimate, SystemMetrics
from partner_rl.evaluation.summary import circumstances
from partner_rl.evaluation.tables import main_table
from partner_rl.storage.atomic import write_json
from partner_rl.types import EditAction, Example, ScoreRequest

NAMES = ("change_in_empathy", "distinct_sentences")
SYSTEMS = (
    SystemMetrics("original", {"change_in_empathy": MetricEstimate(0.0, None)}, {}),
    SystemMetrics("rl", {key: MetricEstimate(value, None) for key, value in zip(NAMES, (1.25, 0.9), strict=True)}, {}),
)
ENV = EnvConfig(window=4, max_edits=2)


@dataclass(frozen=True)
class Shown:
    request: ScoreRequest
    edits: tuple[Edit, ...]


def shown(response: str, *actions: EditAction) -> Shown:
    state = rewriting.reset(Example("s", "r", "I feel [bold]low[/bold].", response), ENV)
    for action in actions:
        state = rewriting.step(state, action, ENV)
    return Shown(rewriting.score_request(state), rewriting.edits(state))


def printed(*rewrites: Shown, limit: int = 5) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    print_rewrites(rewrites, console, limit)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_inserted_and_replaced_sentences_are_marked() -> None:
    rewrite = shown("Get up.\nGo out.", EditAction(0, "I hear you."), EditAction(ENV.window + 3, "What would help?"))
    marked = marked_response(rewrite)
    assert marked.plain == "I hear you.\nGet up.\nGo out. What would help?"
    styles = {marked.plain[span.start : span.end]: span.style for span in marked.spans}
    assert styles == {"I hear you.": INSERTED, "Go out.": STRUCK, "What would help?": INSERTED}


def test_a_generated_sentence_equal_to_the_supporters_is_marked_at_its_own_place() -> None:
    marked = marked_response(shown("I see. Well.", EditAction(2, "I see.")))
    (span,) = marked.spans
    assert (span.start, span.end) == (13, 19)
    assert marked.plain == "I see. Well. I see."


def test_markup_and_control_characters_of_posts_do_not_reach_the_terminal() -> None:
    output = printed(shown("Try [red]this[/red] \x1b[31mnow.", EditAction(0, "[/] I hear you.")))
    assert "[red]this[/red]" in output
    assert "[/] I hear you." in output
    assert "[bold]low[/bold]" in output
    assert "\x1b" not in output


def test_edited_rewrites_come_first_and_the_limit_holds() -> None:
    unchanged, edited = shown("Left alone."), shown("Get up.", EditAction(0, "I hear you."))
    assert "Left alone" not in printed(unchanged, edited, limit=1)
    assert "Left alone" in printed(unchanged, edited)


def test_the_table_has_a_column_a_system_and_dashes_where_nothing_applies() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(printed_table(main_table(Group("all", "all pairs", 7, SYSTEMS))))
    assert isinstance(console.file, io.StringIO)
    output = console.file.getvalue()
    rows = {line.split("│")[1].strip(): line for line in output.splitlines() if "│" in line}
    assert "+1.250" in rows["change in empathy ↑"]
    assert "–" in rows["distinct sentences ↑"]
    assert "90.0%" in rows["distinct sentences ↑"]
    assert "7 pairs." in output


def test_circumstances_are_complete_and_a_summary_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "run" / "summary.json"
    write_json(path, circumstances({"warm_start": 12.34567}, seed=4), allow_nan=False)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert (read["seconds"], read["seed"]) == ({"warm_start": 12.346}, 4)
    assert read["versions"]["torch"]
    assert read["device"]["cpu"]
    assert read["device"]["cores"] >= 1
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]


def test_a_value_that_is_no_number_leaves_the_old_summary_alone(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"old": 1}, allow_nan=False)
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"new": math.nan}, allow_nan=False)
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
