"""Stages on a real local Ray: whole or not there, continued where they were stopped, and one line for what is wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray

from partner_rl.pipelines.done_markers import DONE
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.stage import RowError, Stage, columns_of, run_stage
from partner_rl.types import PartnerError

# Actors cannot import this file by name: what it defines travels by value.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

SCHEMA = pa.schema([("number", pa.int64()), ("text", pa.string())])
RESOURCES = Resources(num_cpus=0.5, batch_rows=4, rows_per_unit=10)

pytestmark = pytest.mark.usefixtures("local_ray")


@dataclass(frozen=True)
class Doubling:
    """Doubles numbers and drops those that can be divided by 7; texts named after a misbehaviour bring it about."""

    trace: Path

    def __call__(self) -> Doubling.Transform:
        if self.trace.name == "unbuildable":
            raise PartnerError("no model at nowhere: train one")
        return Doubling.Transform(self.trace)

    class Transform:
        def __init__(self, trace: Path) -> None:
            self.trace = trace

        def __call__(self, batch: pa.Table) -> tuple[pa.Table, Counter[str]]:
            numbers = batch["number"].to_pylist()
            assert len(numbers) <= RESOURCES.batch_rows
            with self.trace.open("a") as file:
                file.writelines(f"{number}\n" for number in numbers)
            for row, text in enumerate(batch["text"].to_pylist()):
                self.misbehave(row, text)
            keep = [number % 7 != 0 for number in numbers]
            doubled = batch.set_column(0, "number", pc.multiply(batch["number"], 2)).filter(pa.array(keep))
            return doubled, Counter(sevens=keep.count(False), batches=1)

        def misbehave(self, row: int, text: str) -> None:
            if text.startswith("grow "):
                with Path(text.removeprefix("grow ")).open("ab") as file:
                    file.write(b"more")
            elif text == "row":
                raise RowError(row, "the text is not welcome")
            elif text == "bug":
                raise ValueError("my secret post")
            elif text == "die" or (text == "die once" and self.first_time()):
                os.kill(os.getpid(), signal.SIGKILL)

        def first_time(self) -> bool:
            mark = self.trace.with_name("died")
            seen = mark.exists()
            mark.touch()
            return not seen


def doubling(trace: Path) -> Stage:
    return Stage("double", Doubling(trace), columns_of(SCHEMA), SCHEMA, {"factor": 2, "kind": "a"})


def write(path: Path, start: int, stop: int, texts: dict[int, str] | None = None, rows_per_group: int = 5) -> None:
    path.parent.mkdir(exist_ok=True)
    numbers = list(range(start, stop))
    posts = [(texts or {}).get(number, f"post {number}") for number in numbers]
    pq.write_table(pa.table([numbers, posts], schema=SCHEMA), path, row_group_size=rows_per_group)


def read(output: Path) -> list[int]:
    files = sorted(output.glob("*.parquet"))
    return [number for file in files for number in pq.read_table(file)["number"].to_pylist()]


def parquet_files(output: Path) -> list[str]:
    """Everything that is or was to be a result, hidden and temporary files included."""
    return sorted(path.name for path in output.iterdir() if path.name != DONE)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write(tmp_path / "in" / "a.parquet", 0, 25)
    write(tmp_path / "in" / "b.parquet", 25, 37, rows_per_group=100)
    return tmp_path / "in"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def test_all_rows_are_transformed_in_order_and_counted(source: Path, trace: Path, tmp_path: Path):
    calls: list[tuple[int, int]] = []
    two = replace(RESOURCES, workers=2)
    report = run_stage(doubling(trace), source, tmp_path / "out", two, lambda *call: calls.append(call))
    assert read(tmp_path / "out") == [2 * number for number in range(37) if number % 7]
    assert parquet_files(tmp_path / "out") == [
        f"{name}.parquet" for name in ("a-00000", "a-00001", "a-00002", "b-00000")
    ]
    assert (report.rows_in, report.rows_out, report.new_rows) == (37, 31, 37)
    # Batches of 4 rows in units of 10, 10, 5 and 12 rows.
    assert report.counts == {"sevens": 6, "batches": 3 + 3 + 2 + 3}
    assert calls[0] == (0, 37)
    assert calls[-1] == (37, 37)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert sorted(map(int, trace.read_text().split())) == list(range(37))


def test_an_interrupted_run_is_continued(source: Path, trace: Path, tmp_path: Path):
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(doubling(trace), source, tmp_path / "out", RESOURCES, stop)
    # A worker that was killed in the middle leaves such a file.
    (tmp_path / "out" / ".b-00000.parquet.0123abcd.part").write_bytes(b"half")
    report = run_stage(doubling(trace), source, tmp_path / "out", RESOURCES)
    assert report.new_rows < 37
    assert read(tmp_path / "out") == [2 * number for number in range(37) if number % 7]
    assert not list((tmp_path / "out").glob(".*"))
    assert report.counts["sevens"] == 6


def test_only_what_is_missing_is_done_again(source: Path, trace: Path, tmp_path: Path):
    first = run_stage(doubling(trace), source, tmp_path / "out", RESOURCES)
    trace.unlink()
    again = run_stage(doubling(trace), source, tmp_path / "out", RESOURCES)
    assert replace(again, seconds=0) == replace(first, new_rows=0, seconds=0)
    assert not trace.exists()
    (tmp_path / "out" / "a-00001.parquet").unlink()
    (tmp_path / "out" / "a-00002.parquet").write_bytes(b"cut")
    assert run_stage(doubling(trace), source, tmp_path / "out", RESOURCES).new_rows == 15
    assert sorted(map(int, trace.read_text().split())) == list(range(10, 25))
    assert read(tmp_path / "out") == [2 * number for number in range(37) if number % 7]


def test_results_of_other_settings_or_input_are_refused(source: Path, trace: Path, tmp_path: Path):
    out = tmp_path / "out"
    run_stage(doubling(trace), source, out, RESOURCES)
    other = replace(doubling(trace), settings={"factor": 3, "kind": "a"})
    with pytest.raises(PartnerError, match=r"was made with factor=2, now it is 3: add --overwrite or choose another"):
        run_stage(other, source, out, RESOURCES)
    with pytest.raises(PartnerError, match=r"with rows_per_unit=10, now it is 20"):
        run_stage(doubling(trace), source, out, replace(RESOURCES, rows_per_unit=20))
    os.utime(source / "a.parquet", (1, 1))
    with pytest.raises(PartnerError, match=r"another version of the input file a\.parquet"):
        run_stage(doubling(trace), source, out, RESOURCES)
    write(source / "c.parquet", 40, 44)
    (source / "b.parquet").unlink()
    (out / "mine.txt").write_text("mine")
    report = run_stage(other, source, out, RESOURCES, overwrite=True)
    assert (report.new_rows, report.rows_in) == (29, 29)
    assert parquet_files(out) == [
        "a-00000.parquet",
        "a-00001.parquet",
        "a-00002.parquet",
        "c-00000.parquet",
        "mine.txt",
    ]


def test_folders_that_hold_something_else_are_refused(source: Path, trace: Path, tmp_path: Path):
    with pytest.raises(PartnerError, match="is the folder of the input"):
        run_stage(doubling(trace), source, source, RESOURCES)
    write(tmp_path / "other" / "x.parquet", 0, 3)
    with pytest.raises(PartnerError, match=r"holds files of something else \(x\.parquet\)"):
        run_stage(doubling(trace), source, tmp_path / "other", RESOURCES)
    (tmp_path / "file").touch()
    with pytest.raises(PartnerError, match="is a file"):
        run_stage(doubling(trace), source, tmp_path / "file", RESOURCES)


def test_bad_input_is_one_line_before_anything_starts(source: Path, trace: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "none" / "x.parquet", 0, 0)
    cut = tmp_path / "cut" / "x.parquet"
    write(cut, 0, 50)
    cut.write_bytes(cut.read_bytes()[:-20])
    pq.write_table(pa.table({"number": [1]}), tmp_path / "lacks.parquet")
    pq.write_table(pa.table({"number": ["1"], "text": ["a"]}), tmp_path / "type.parquet")
    for name, message in {
        "nowhere": "no data at .*nowhere",
        "empty": r"empty holds no \.parquet file",
        "none": "none holds no rows",
        "cut": r"x\.parquet is truncated or no Parquet file",
        "lacks.parquet": "lacks the columns text",
        "type.parquet": "column number is string, expected int64",
    }.items():
        with pytest.raises(PartnerError, match=message) as caught:
            run_stage(doubling(trace), tmp_path / name, tmp_path / "out", RESOURCES)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row", r"a\.parquet, row 13 \(the first is 0\): the text is not welcome"),
        ("bug", r"double failed on .*a\.parquet: ValueError at test_stage\.py:\d+"),
        ("grow", r"a\.parquet changed while it was read"),
        ("die", r"3 workers died on rows 10 to 19 of .*a\.parquet: is there memory"),
    ],
)
def test_failures_in_a_worker_are_one_line(text: str, message: str, trace: Path, tmp_path: Path):
    path = tmp_path / "in" / "a.parquet"
    write(path, 0, 25, {13: f"grow {path}" if text == "grow" else text})
    with pytest.raises(PartnerError, match=message) as caught:
        run_stage(doubling(trace), path, tmp_path / "out", RESOURCES)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "a-00001.parquet" not in parquet_files(tmp_path / "out")


def test_a_transform_that_cannot_be_built_is_one_line(source: Path, tmp_path: Path):
    with pytest.raises(PartnerError, match=r"^no model at nowhere: train one$"):
        run_stage(doubling(tmp_path / "unbuildable"), source, tmp_path / "out", RESOURCES)
    assert parquet_files(tmp_path / "out") == []


def test_a_worker_that_dies_once_loses_and_doubles_nothing(trace: Path, tmp_path: Path):
    write(tmp_path / "in" / "a.parquet", 0, 25, {13: "die once"})
    report = run_stage(doubling(trace), tmp_path / "in", tmp_path / "out", RESOURCES)
    assert (tmp_path / "died").exists()
    assert read(tmp_path / "out") == [2 * number for number in range(25) if number % 7]
    assert report.counts["sevens"] == 4
    assert parquet_files(tmp_path / "out") == ["a-00000.parquet", "a-00001.parquet", "a-00002.parquet"]


def test_a_damaged_page_is_one_line_and_leaves_no_file(trace: Path, tmp_path: Path):
    path = tmp_path / "in" / "a.parquet"
    path.parent.mkdir()
    texts = [f"{number} {number * 7919 % 1000003}" for number in range(4000)]
    table = pa.table([list(range(4000)), texts], schema=SCHEMA)
    pq.write_table(table, path, row_group_size=1000, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) * 3 // 5
    content[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(PartnerError, match=r"a\.parquet is damaged after row [23]\d\d\d: .*; write it again") as caught:
        run_stage(doubling(trace), path, tmp_path / "out", replace(RESOURCES, rows_per_unit=5000))
    assert "\n" not in str(caught.value)
    assert parquet_files(tmp_path / "out") == []


def test_workers_that_find_no_place_are_reported(source: Path, trace: Path, tmp_path: Path):
    message = r"4000 workers with 2 CPUs each need 8000, Ray has \d+: give fewer workers"
    with pytest.raises(PartnerError, match=message):
        run_stage(doubling(trace), source, tmp_path / "out", Resources(workers=4000, num_cpus=2))
    with pytest.raises(PartnerError, match="workers=0: give at least 1"):
        Resources(workers=0)
