"""The benchmark of the shared pool: what it asks of a sweep, and what it makes of the answer."""

from __future__ import annotations

import pytest

from benchmarks.sweep_pool import Case, Row, difference, settings_of, spec_of, table
from launch.run_folder.folder import RunFolder
from launch.sweep.opening import new_sweep
from launch.sweep.sizing import sizing
from launch.sweep.space import planned_points
from partner_rl.config.load import load_config, save_config


@pytest.mark.parametrize("shared", [False, True])
def test_both_kinds_of_sweep_have_the_same_trials_at_a_time(shared, tmp_path):
    run = RunFolder(tmp_path / "base")
    save_config(load_config("smoke", ["name=base"]), run.config_file)
    (tmp_path / "s.yaml").write_text(spec_of(Case(shared, 2), run.config_file, 4, settings_of(run, 3)))
    sweep = new_sweep(str(tmp_path / "s.yaml"), (), tmp_path / "out", None)
    assert sweep.config.algorithm.iterations == 3
    assert sweep.config.warmstart.checkpoint == str(run.warm_start)
    assert len(planned_points(sweep.spec) or ()) == 4
    assert sizing(sweep.spec, sweep.config, 4, machine_cores=2, machine_gpus=0).concurrent == 2


def row(shared: bool, perplexity: float) -> Row:
    return Row(shared, 2, 60.4, 50.0, 4 if shared else 16, 10.0, 2000.0, {"trial-0001": {"perplexity": perplexity}})


def test_rows_are_compared():
    rows = [row(False, 10.0), row(True, 10.0)]
    assert difference(rows) == 0.0
    assert difference([*rows, row(True, 8.0)]) == pytest.approx(0.2)
    lines = table(rows).splitlines()
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["one pool for all", "2", "60", "4", "10.0", "2000"]
