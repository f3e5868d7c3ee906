"""Tests of the table, the printed rewrites and the summary."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from envs import rewriting
from envs.rewriting import Edit
from partner_rl.config.schema import EnvConfig
from partner_rl.evaluation.report import INSERTED, STRUCK, marked_response, print_rewrites, systems_table
from partner_rl.evaluation.summary import build_summary, write_summary
from partner_rl.evaluation.systems import SystemScores
from partner_rl.types import EditAction, Example, ScoreRequest

SCORES = SystemScores(
    name="rl",
    n=7,
    change_in_empathy=1.25,
    change_by_mechanism={"emotional_reactions": 1.0, "interpretations": 0.25, "explorations": 0.0},
    perplexity=41.5,
    coherence=0.75,
    specificity=0.5,
    listener_accuracy=0.25,
    mutual_information=-2.5,
    distinct_1=0.5,
    distinct_2=0.875,
    distinct_sentences=0.9,
    commonest_sentence=0.1,
    self_disclosure=0.2,
    edit_rate=0.625,
    unchanged=0.0,
    length=12.0,
)
ORIGINAL = replace(SCORES, name="original", change_in_empathy=0.0, distinct_sentences=None, commonest_sentence=None)
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
    console.print(systems_table([ORIGINAL, SCORES]))
    assert isinstance(console.file, io.StringIO)
    rows = {line.split("│")[1].strip(): line for line in console.file.getvalue().splitlines() if "│" in line}
    assert "+1.250" in rows["change in empathy ↑"]
    assert "–" in rows["distinct sentences ↑"]
    assert "90.0%" in rows["distinct sentences ↑"]


def test_the_summary_is_complete_and_written_whole(tmp_path: Path) -> None:
    summary = build_summary([ORIGINAL, SCORES], {"warm_start": 12.34567}, 3.5, seed=4)
    path = tmp_path / "run" / "summary.json"
    write_summary(path, summary)
    read = json.loads(path.read_text(encoding="utf-8"))
    assert list(read["systems"]) == ["original", "rl"]
    wanted = {
        *("change_in_empathy", "perplexity", "coherence", "specificity"),
        *("distinct_2", "distinct_sentences", "edit_rate", "n"),
    }
    assert wanted <= read["systems"]["rl"].keys()
    assert read["systems"]["original"]["distinct_sentences"] is None
    assert (read["seconds"], read["episodes_per_second"], read["seed"]) == ({"warm_start": 12.346}, 3.5, 4)
    assert read["versions"]["torch"]
    assert read["device"]["cpu"]
    assert read["device"]["cores"] >= 1
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]


def test_a_figure_that_is_no_number_leaves_the_old_summary_alone(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_summary(path, {"new": math.nan})
    assert json.loads(path.read_text(encoding="utf-8")) == {"old": 1}
