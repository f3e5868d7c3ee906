"""Curating finds what was planted, counts it, and can be stopped at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from launch.preflight.corpus import first_rows
from partner_rl.config.schema import DataConfig, RunConfig
from partner_rl.curation.topic import TopicFilter
from partner_rl.curation.usable import Limits
from partner_rl.data.pair_schema import PAIR_SCHEMA, batch_from_examples, write_parquet
from partner_rl.data.readers import read_examples
from partner_rl.data.rows import PARTLY_LABELLED
from partner_rl.data.synthetic import CorpusSettings, Generated, generate
from partner_rl.pipelines.cleaning import CleanBuilder, TopicSettings
from partner_rl.pipelines.curate import COUNTS, WORK, CurateSettings, curate
from partner_rl.pipelines.deduplication import offsets
from partner_rl.pipelines.resources import Resources
from partner_rl.pipelines.source import parquet_source
from partner_rl.progress import Progress
from partner_rl.types import Example, MechanismLabel, PartnerError
from tests.helpers.command_line import COMMAND, ROOT, partner
from tests.helpers.waiting import wait_until

RESOURCES = Resources(num_cpus=0.5, rows_per_unit=10_000)
NO_LABEL = MechanismLabel(0)

pytestmark = pytest.mark.usefixtures("local_ray")


def read(folder: Path) -> list[Example]:
    return list(read_examples(str(folder)).examples)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Generated]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, generate(CorpusSettings(12_000, seed=3, duplicates=0.08, pii=0.05), folder, rows_per_file=6_000)


def test_what_was_planted_is_found(corpus: tuple[Path, Generated], tmp_path: Path):
    source, planted = corpus
    report = curate(source, tmp_path / "out", CurateSettings(), RESOURCES)
    duplicates = planted.exact + planted.near
    found = report.dropped["duplicate_exact"] + report.dropped["duplicate_near"]
    assert found == pytest.approx(duplicates, abs=3)
    # A near duplicate with the same word as another one is an exact one.
    assert planted.exact <= report.dropped["duplicate_exact"] <= planted.exact + 20
    assert report.replaced == planted.pii
    assert report.kept == report.rows_in - found == 12_000 - found
    pairs = read(tmp_path / "out")
    assert len(pairs) == report.kept
    # The first of each group stays, and the shouted copies are never the first.
    assert not any(pair.response_post.isupper() for pair in pairs)
    text = " ".join(pair.response_post for pair in pairs)
    assert not any(mark in text for mark in ("@", "-555-", "u/helper", "example.org"))
    assert json.loads((tmp_path / "out" / COUNTS).read_text())["kept"] == report.kept
    assert not (tmp_path / "out" / WORK).exists()
    # A second run has nothing to do, and says the same.
    again = curate(source, tmp_path / "out", CurateSettings(), RESOURCES)
    assert replace(again, seconds=report.seconds) == report
    with pytest.raises(PartnerError, match=r"was made with near_threshold=0\.7, now it is 0\.8: add --overwrite"):
        curate(source, tmp_path / "out", CurateSettings(near_threshold=0.8), RESOURCES)


def clean(*examples: Example) -> tuple[list[dict[str, object]], dict[str, int]]:
    transform = CleanBuilder(Limits(), ("US",), None)()
    table, counts = transform(pa.Table.from_batches([batch_from_examples(examples)]))
    return table.select(PAIR_SCHEMA.names).to_pylist(), dict(counts)


def pair(seeker: str, response: str, *labels: MechanismLabel) -> Example:
    return Example("s", "r", seeker, response, labels or None)  # type: ignore[arg-type]


def test_unusable_pairs_are_counted_by_reason():
    rows, counts = clean(
        pair("I am sad.", "Oh no!"), pair(" ", "Oh no!"), pair("I am sad.", "Same."), pair("123 456", "Oh no!")
    )
    assert [row["response_post"] for row in rows] == ["Oh no!"]
    assert counts == {"rejected/seeker_post is empty": 1, "dropped/too_short": 1, "dropped/not_text": 1}


def test_rationales_stay_substrings_of_the_response():
    label = MechanismLabel(2, ("I am sorry, u/joe", "mail joe@exam", "so sorry"))
    rows, counts = clean(
        pair("I am sad.", "I am sorry, u/joe. Do mail joe@example.org, so sorry.", label, NO_LABEL, label)
    )
    assert rows[0]["response_post"] == "I am sorry, [USER]. Do mail [EMAIL], so sorry."
    assert rows[0]["emotional_reactions_rationales"] == ["I am sorry, [USER]", "so sorry"]
    assert rows[0]["interpretations_rationales"] == []
    assert counts == {"replaced/user": 1, "replaced/email": 1, "rationales_dropped": 2}


def test_off_topic_pairs_are_dropped_by_the_seeker_post(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    asked: list[str] = []

    class Toy:
        def probabilities(self, posts: Sequence[str]) -> np.ndarray:
            asked.extend(posts)
            return np.array([0.5 if "sad" in post else 0.49 for post in posts])

    monkeypatch.setattr(TopicFilter, "load", lambda folder, device: Toy())
    transform = CleanBuilder(Limits(), ("US",), TopicSettings(tmp_path, 0.5))()
    pairs = [pair("Nice pizza.", "So sad."), pair("I am sad.", "Oh no!"), pair("Nice pizza.", "Yes it is.")]
    table, counts = transform(pa.Table.from_batches([batch_from_examples(pairs)]))
    assert table["seeker_post"].to_pylist() == ["I am sad."]
    assert counts == {"dropped/off_topic": 2}
    assert sorted(asked) == ["I am sad.", "Nice pizza."]


def test_bytes_that_are_no_text_are_dropped():
    columns = {name: pa.array(["a b", "c d"]) for name in PAIR_SCHEMA.names[:4]}
    raw = pa.array([b"good words", b"bad \xff\xfe words"]).view(pa.string())
    columns["response_post"] = raw
    labels = {field.name: pa.nulls(2, field.type) for field in list(PAIR_SCHEMA)[4:]}
    table, counts = CleanBuilder(Limits(), ("US",), None)()(pa.table(columns | labels))
    assert table["response_post"].to_pylist() == ["good words"]
    assert counts == {"rejected/response_post is not UTF-8": 1}


def test_rows_of_all_files_are_numbered_through(tmp_path: Path):
    for name, rows in (("b", 2), ("a", 3), ("c", 1)):
        write_parquet([pair("x y", "z")] * rows, tmp_path / f"{name}.parquet")
    assert offsets(tmp_path) == {"a.parquet": 0, "b.parquet": 3, "c.parquet": 5, "": 6}


def test_any_corpus_is_converted_once(tmp_path: Path):
    first = parquet_source("sample", tmp_path, "curated pairs", 20_000)
    changed = first.path.stat().st_mtime_ns
    assert pq.read_metadata(first.path).num_rows == 380
    assert parquet_source("sample", tmp_path, "curated pairs", 20_000) == first
    assert first.path.stat().st_mtime_ns == changed
    with pytest.raises(PartnerError, match="was made with another corpus: add --overwrite"):
        parquet_source("sample", tmp_path, "curated pairs", 10_000)
    assert parquet_source(str(first.path.parent), tmp_path, "curated pairs", 20_000).path == first.path.parent
    (tmp_path / "empty").mkdir()
    with pytest.raises(PartnerError, match="holds no corpus in the EPITOME layout"):
        parquet_source(str(tmp_path / "empty"), tmp_path / "out", "curated pairs", 20_000)


def test_bad_requests_are_one_line_before_anything_starts(corpus: tuple[Path, Generated], tmp_path: Path):
    source, _ = corpus
    topic = CurateSettings(topic=TopicSettings(tmp_path / "nowhere"))
    for settings, place, message in (
        (topic, source, "no topic model at .*nowhere"),
        (CurateSettings(phone_regions=("Mars",)), source, "unknown phone region 'Mars'"),
        (CurateSettings(), tmp_path / "gone", "no data at .*gone"),
    ):
        with pytest.raises(PartnerError, match=message):
            curate(place, tmp_path / "out", settings, RESOURCES)
    with pytest.raises(PartnerError, match="is the folder of the input"):
        curate(source, source, CurateSettings(), RESOURCES)
    assert not (tmp_path / "out").exists()
    assert not (source / WORK).exists()


def test_a_corpus_of_which_nothing_is_left_is_one_line(tmp_path: Path):
    write_parquet([pair("a", "b"), pair("1 2", "c d")], tmp_path / "in" / "a.parquet")
    with pytest.raises(PartnerError, match=r"not one of 2 pairs can be used \(not_text: 1, too_short: 1\)"):
        curate(tmp_path / "in", tmp_path / "out", CurateSettings(), RESOURCES)


@pytest.mark.reported
def test_a_file_of_another_writer_is_curated_and_its_bad_rows_counted(tmp_path: Path):
    table = pa.table(
        {
            "Response-Post": pa.array(["Oh no!", None, "That is hard.", "Do go on.", "Go on then."], pa.large_string()),
            "seeker_post": pa.array(["I am sad.", "So sad.", "I fell.", "I lost.", "It broke."]).dictionary_encode(),
            "seeker_id": [1.0, 2.0, None, 4.0, 5.0],
            "emotional_reactions_level": pa.array([1, 1, 1, 3, None], pa.int64()),
            "interpretations_level": pa.array([0, 1, None, 1, None], pa.float64()),
            "explorations_level": ["2", "1", "1", "1", None],
            "explorations_rationales": ["Oh|no!", "", None, None, None],
            "subreddit": ["help"] * 5,
        }
    )
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    source = parquet_source(str(tmp_path / "in"), tmp_path / "out", "curated pairs", 20_000).path
    report = curate(source, tmp_path / "out", CurateSettings(), RESOURCES)
    assert report.rejected == {"response_post is missing": 1, "emotional_reactions_level is not 0, 1 or 2": 1}
    assert report.remarks == {PARTLY_LABELLED: 1}
    first, second, third = read(tmp_path / "out")
    assert first.labels == (MechanismLabel(1), NO_LABEL, MechanismLabel(2, ("Oh", "no!")))
    assert (first.seeker_id, third.seeker_id) == ("1", "5")
    assert second.seeker_id.startswith("s-")
    assert second.labels is third.labels is None
    config = RunConfig(data=DataConfig(source=str(tmp_path / "out")))
    facts = first_rows(config, needs_labels=True)
    assert (facts.pairs, facts.labelled, facts.problem) == (3, 1, "")


@pytest.mark.reported
def test_a_folder_of_an_interrupted_curation_is_no_corpus(corpus: tuple[Path, Generated], tmp_path: Path):
    @contextmanager
    def stopped(description: str) -> Iterator[Progress]:
        def report(done: int, total: int) -> None:
            if description == "Writing pairs" and done:
                raise KeyboardInterrupt

        yield report

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        curate(corpus[0], out, CurateSettings(), RESOURCES, stopped)
    assert list(out.glob("*.parquet"))
    with pytest.raises(PartnerError, match="is unfinished: run the command that makes it again"):
        read(out)
    report = curate(corpus[0], out, CurateSettings(), RESOURCES)
    assert len(read(out)) == report.kept


@pytest.mark.reported
def test_a_folder_of_tables_is_converted_once_wherever_the_output_lies(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"seeker_post;response_post\nI fell, {name}.;Oh no!\nBad;\n")
    out = tmp_path / "out"
    first = parquet_source(str(tmp_path), out, "curated pairs", 20_000)
    assert first.rejected == 2
    assert [example.seeker_post for example in read(first.path.parent)] == ["I fell, a.", "I fell, b."]
    (out / "part.csv").write_text("more")
    assert parquet_source(str(tmp_path), out, "curated pairs", 20_000) == first
    (tmp_path / "c.csv").write_text("seeker_post,response_post\nI fell.,Oh no!\n")
    with pytest.raises(PartnerError, match="was made with another corpus"):
        parquet_source(str(tmp_path), out, "curated pairs", 20_000)


@pytest.mark.slow
def test_the_command_can_be_killed_and_run_again(tmp_path: Path):
    source, out = tmp_path / "in", tmp_path / "out"
    planted = generate(CorpusSettings(30_000), source, rows_per_file=10_000)
    command = ["data", "curate", str(source), str(out)]
    process = subprocess.Popen(
        [*COMMAND, *command], cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    clean_folder = out / WORK / "clean"
    wait_until(lambda: bool(list(clean_folder.glob("part-*.parquet"))), "nothing is cleaned", process=process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(out.glob("*.parquet"))
    done = {path.name: path.stat().st_mtime_ns for path in clean_folder.glob("part-*.parquet")}
    result = partner(*command, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert done
    pairs = read(out)
    assert len(pairs) == pytest.approx(30_000 - planted.exact - planted.near, abs=5)
    assert len({pair.response_id for pair in pairs}) == len(pairs)
    assert "duplicate near" in result.stdout
    assert "Traceback" not in result.stderr


def test_without_a_topic_model_the_driver_loads_no_torch() -> None:
    code = "import sys, launch.commands.data.curate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
