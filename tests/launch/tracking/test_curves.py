"""Tests of the training curves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from launch.run_folder.reader import Row, read_rows
from launch.tracking.curves import PANELS as DEFAULT_PANELS
from launch.tracking.curves import Panel, plot_curves
from partner_rl.types import PartnerError

PANELS = (
    Panel("reward.png", "Reward", "reward (points)", ("reward/*",)),
    Panel("missing.png", "Nothing", "none", ("absent",)),
)


def test_a_panel_with_data_becomes_a_png_and_one_without_does_not(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    rows: list[Row] = [
        {"step": i, "reward/total": i / 2, "reward/raw/empathy": None if i == 1 else 1.0} for i in range(3)
    ]
    metrics.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    written = plot_curves(read_rows(metrics), tmp_path / "plots", PANELS)
    assert written == [tmp_path / "plots" / "reward.png"]
    assert written[0].read_bytes().startswith(b"\x89PNG")


def test_gaps_and_what_is_no_number_are_left_out(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"step": 0, "reward/total": math.nan},
        {"step": 1, "reward/total": "high"},
        {"reward/total": 1.0},
    ]
    assert plot_curves(rows, tmp_path, PANELS) == []


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"iteration": 0}\n{"iter\n', encoding="utf-8")
    with pytest.raises(PartnerError, match="line 2"):
        read_rows(metrics)
    with pytest.raises(PartnerError, match="there is no"):
        read_rows(tmp_path / "absent.jsonl")


def test_a_training_run_fills_every_default_chart(tmp_path: Path) -> None:
    keys = [panel.patterns[0].replace("*", "fluency") for panel in DEFAULT_PANELS]
    rows: list[Row] = [{"step": step, **dict.fromkeys(keys, float(step))} for step in (1, 2)]
    assert [path.name for path in plot_curves(rows, tmp_path)] == [panel.file_name for panel in DEFAULT_PANELS]
