"""The terminal's view of a run, and the reading of files that grow."""

from __future__ import annotations

import io
import json
import math
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from launch.commands.watch import WatchedRun, frame, sparkline, time_left
from launch.run_folder.reader import JsonlTail, last_rows
from launch.run_folder.record import METRICS_FILE, SAMPLES_FILE, recorded
from launch.tracking.tracker import Tracker
from partner_rl import metric_names as names
from partner_rl.config.load import load_config, save_config
from partner_rl.types import PartnerError
from tests.helpers.command_line import COMMAND, partner
from tests.helpers.run_folders import POST, REWRITE, figures, log_steps, write_run


def shown(run: Path, *, posts: bool = True) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(frame(WatchedRun(run).look(), posts=posts))
    return console.export_text()


def line_of(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line.rstrip()


def test_a_frame_shows_rewards_speed_phases_guards_and_the_last_rewrite(tmp_path):
    text = shown(write_run(tmp_path / "first"))
    assert text.startswith("first  finished  iteration 12/20")
    assert line_of(text, "total").split()[1:3] == ["0.500", "0.050"]
    assert line_of(text, "total").endswith("█")
    # The last step has no figure; the mean is over those that have one.
    assert line_of(text, "coherence").split()[1:3] == ["–", "0.250"]
    assert line_of(text, "generate").split()[1] == "6.00"
    assert "episodes/s" in text
    assert "8.000" in text
    assert "guards: quiet, 1 iterations with alarms so far  (opening_share 0.25)" in text
    assert "last rewrite, iteration 12" in text
    assert POST in text
    assert REWRITE in text
    assert "empathy +1.250" in text


def test_a_frame_says_what_an_alarm_advises_and_why_groups_teach_nothing(tmp_path):
    run = write_run(tmp_path / "run")
    row = {
        **figures(13, 0.5),
        names.STEP: 13,
        names.guard("alarms"): 1.0,
        names.guard("kl_sentence"): 12.0,
        names.machine("alarms"): 0.0,
        names.machine("slowdown"): 1.1,
        names.TRAIN_GROUPS_WITHOUT_SPREAD: 0.6,
        names.reward_without_spread("empathy"): 0.8,
        names.reward_without_spread("fluency"): 0.1,
        names.POLICY_KL_SENTENCE: 12.5,
    }
    with (run / METRICS_FILE).open("a") as file:
        file.write(json.dumps(row) + "\n")
    text = " ".join(shown(run).split())
    assert "guards: 1 alarms now" in text
    assert "kl_sentence: the policy walks away from the one it started from: raise algorithm.kl_coeff" in text
    assert "machine: quiet (slowdown 1.1)" in text
    assert "kl a sentence 12.500" in text
    assert "60% of the groups teach nothing" in text
    assert "(without spread: empathy 80%)" in text
    assert "teach nothing" not in shown(write_run(tmp_path / "other"))


def test_posts_can_be_left_out(tmp_path):
    assert POST not in shown(write_run(tmp_path / "first"), posts=False)
    redacted = shown(write_run(tmp_path / "second", "tracking.redact=true"))
    assert POST not in redacted
    assert "texts are redacted" in redacted


def test_markup_in_a_post_is_shown_as_it_is(tmp_path):
    run = write_run(tmp_path / "run")
    row = {"step": 12, "seeker_post": "[bold]so[/] low [/x]", "response_post": "a", "rewritten_response": "b"}
    (run / SAMPLES_FILE).write_text(json.dumps(row) + "\n")
    assert "[bold]so[/] low [/x]" in shown(run)


def test_a_run_without_figures_yet(tmp_path):
    save_config(load_config("smoke"), tmp_path / "run" / "config.yaml")
    assert "no iteration has been logged yet" in shown(tmp_path / "run")
    with pytest.raises(PartnerError, match="is no run folder"):
        WatchedRun(tmp_path)


def test_the_time_that_is_left_is_that_of_the_last_iterations(tmp_path):
    run = WatchedRun(write_run(tmp_path / "run")).look().run
    assert time_left(run) == pytest.approx(8 * 10.0)


def test_the_command_ends_with_the_run(tmp_path):
    run = tmp_path / "run"
    config = load_config("smoke", ["tracking.wandb=disabled", "tracking.tensorboard=false", "algorithm.iterations=20"])
    save_config(config, run / "config.yaml")
    with recorded(run):
        arguments = [*COMMAND, "watch", str(run), "--interval", "0.2"]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        with Tracker(run, config, config.tracking) as tracker:
            log_steps(tracker, 1, 3)
        once = partner("watch", run, "--once", folder=tmp_path)
        time.sleep(1)
        assert process.poll() is None
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert once.returncode == 0, once.stderr
    assert "running" in once.stdout
    assert "iteration 3/20" in once.stdout
    assert "about 2 min 50 s left" in once.stdout
    assert "finished" in printed
    assert "iteration 3/20" in printed


def test_a_growing_file_is_read_line_by_line(tmp_path):
    path = tmp_path / METRICS_FILE
    tail = JsonlTail(path)
    assert tail.rows() == []
    path.write_text('{"step": 1}\n{"step": 2')
    assert tail.rows() == [{"step": 1}]
    with path.open("a") as file:
        file.write('}\n{"step": 3}\n')
    assert [row["step"] for row in tail.rows()] == [1, 2, 3]
    # A resume replaces the file.
    (tmp_path / "new").write_text('{"step": 1}\n{"step": 20}\n{"step": 3}\n{"step": 4}\n')
    (tmp_path / "new").replace(path)
    assert [row["step"] for row in tail.rows()] == [1, 20, 3, 4]


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_the_end_of_a_large_file_is_read_alone(tmp_path, size):
    path = tmp_path / SAMPLES_FILE
    path.write_text("".join(json.dumps({"step": step, "text": "x" * size}) + "\n" for step in range(5)) + '{"step": 5')
    rows = last_rows(path)
    assert rows[-1] == {"step": 4, "text": "x" * size}
    assert len(rows) == (5 if size == 10 else 1)
    assert last_rows(tmp_path / "missing") == []


def test_sparklines():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, 1.0], 8) == "▅▅"
    assert sparkline([0.0, math.nan, 7.0], 8) == "▁ █"
    assert sparkline([math.nan], 8) == " "
    assert sparkline([], 8) == ""
    long = sparkline([float(i) for i in range(1000)], 10)
    assert len(long) == 10
    assert long == "".join(sorted(long))


def test_the_command_says_in_one_line_what_is_no_run(tmp_path):
    result = partner("watch", tmp_path / "nothing", "--once", folder=tmp_path)
    assert result.returncode == 1
    assert "is no run folder" in result.stderr
    assert len(result.stderr.splitlines()) == 1
