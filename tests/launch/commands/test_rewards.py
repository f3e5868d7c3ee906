"""`partner-rl rewards score` and `rewards bench` on tiny models, through the real command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from launch.commands import row_scores
from launch.commands.rewards.bench import bench_requests, bench_table, measure_pool, pool_plan, replica_counts
from partner_rl.config.load import assignments, load_config
from partner_rl.config.schema import RunConfig
from partner_rl.data.pair_schema import write_parquet
from partner_rl.data.readers import read_examples
from partner_rl.types import MECHANISMS, PartnerError, ScoreRequest
from rewards import timing
from rewards.empathy_model import EmpathyClassifier
from rewards.fluency import FluencyBuilder, FluencyScorer
from rewards.local import LocalRewards
from rewards.registry import all_components
from rewards.scorer import FloatArray, Item
from rewards.timing import TimedBuilder, TimedScorer
from tests.helpers.command_line import partner, run_here
from tests.rewards import conftest as reward_fixtures

bert = reward_fixtures.bert
model_cache = reward_fixtures.model_cache
empathy_checkpoint = reward_fixtures.empathy_checkpoint
coherence_checkpoint = reward_fixtures.coherence_checkpoint

SEEKER = "I failed my exam again, and I cannot tell anybody."
RESPONSE = "That is hard. What happened today? I have been there too."
REWRITTEN = "I am so sorry. That is hard. What happened today? I have been there too."
SECRET = "A most secret sentence about my cat."
ROWS: tuple[dict[str, str], ...] = (
    {"seeker_post": SEEKER, "response_post": RESPONSE, "rewritten_response": REWRITTEN, "response_id": "first"},
    {"seeker_post": SEEKER, "response_post": "  ", "rewritten_response": ""},
    {"seeker_post": SEEKER, "response_post": "🙂🙂🙂", "rewritten_response": ""},
    {"seeker_post": "Nobody calls.", "response_post": SECRET, "rewritten_response": SECRET},
    {"seeker_post": "Nobody calls.", "response_post": RESPONSE * 20, "rewritten_response": "\u200b"},
)


@pytest.fixture
def models(empathy_checkpoint: Path, coherence_checkpoint: Path, model_cache: Path) -> list[str]:
    """Options that name tiny models."""
    return [
        *("--preset", "smoke", "--empathy", str(empathy_checkpoint), "--coherence", str(coherence_checkpoint)),
        *("models.reward_lm=random:gpt2", f"models.cache_dir={model_cache}", "resources.driver_threads=1"),
    ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def score(source: Path, output: Path, *options: str) -> list[dict]:
    assert run_here("rewards", "score", "--input", source, "--output", output, *options) == 0
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")]
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_every_row_has_its_scores_or_its_error(source: Path, tmp_path: Path, models: list[str], capsys):
    rows = score(source, tmp_path / "new" / "scores.jsonl", *models)
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5]
    assert "3 of 5 rows scored, 2 with an error" in capsys.readouterr().out
    assert rows[1] == {"row": 2, "line": 2, "error": "response_post is empty"}
    assert rows[4]["error"] == "rewritten_response is empty"
    for row in (rows[0], rows[2], rows[3]):
        assert list(row["ids"]) == ["seeker_id", "response_id"]
        assert row["mutual_information"]["value"] == pytest.approx(
            0.5 * (row["mutual_information"]["forward"] + row["mutual_information"]["backward"]), abs=1e-5
        )
        assert row["fluency"]["perplexity"] > 1.0
        mechanisms = [row["empathy"][name] for name in MECHANISMS]
        assert row["empathy"]["total"] == pytest.approx(sum(m["expected_level"] for m in mechanisms), abs=1e-5)
        assert all(sum(m["probabilities"]) == pytest.approx(1.0, abs=1e-4) for m in mechanisms)
    assert rows[0]["ids"]["response_id"] == "first"
    assert rows[0]["coherence"]["sentence_pairs"] == 6
    assert rows[3]["coherence"] == {"value": 0.5, "sentence_pairs": 0}
    assert "reward" not in rows[2]
    text = (tmp_path / "new" / "scores.jsonl").read_text(encoding="utf-8")
    assert "secret" not in text
    assert "exam" not in text


def test_scores_are_those_of_the_reward_models(
    source: Path,
    tmp_path: Path,
    models: list[str],
    empathy_checkpoint: Path,
    coherence_checkpoint: Path,
    model_cache: Path,
):
    first, _, _, unchanged, _ = score(source, tmp_path / "scores.jsonl", *models)
    overrides = {
        "models.reward_lm": "random:gpt2",
        "models.cache_dir": str(model_cache),
        "rewards.empathy.checkpoint": str(empathy_checkpoint),
        "rewards.coherence.checkpoint": str(coherence_checkpoint),
    }
    config = load_config("smoke", assignments(overrides))
    classifier = EmpathyClassifier.from_pretrained(empathy_checkpoint)
    (prediction,) = classifier.predict([(SEEKER, RESPONSE)])
    for name, mechanism in zip(MECHANISMS, prediction, strict=True):
        assert first["empathy"][name]["level"] == mechanism.level
        assert first["empathy"][name]["probabilities"] == pytest.approx(mechanism.probabilities, abs=1e-4)
        assert first["empathy"][name]["rationales"] == [list(span) for span in mechanism.rationales]
    rewards = LocalRewards(all_components(config, tmp_path))
    sentences = ("That is hard.", "What happened today?", "I have been there too.")
    pairs = [(a, b) for a in sentences for b in sentences if a != b]
    assert first["coherence"]["value"] == pytest.approx(rewards.score_items("coherence", pairs).mean(), abs=1e-4)
    request = ScoreRequest(SEEKER, RESPONSE, REWRITTEN, ("I am so sorry.",), sentences)
    (breakdown,) = rewards.score([request])
    total = breakdown.weighed(config.rewards.weights()).total
    assert first["reward"]["total"] == pytest.approx(total, abs=1e-3)
    assert first["reward"]["raw"] == pytest.approx(breakdown.raw, abs=1e-4)
    assert unchanged["reward"]["raw"]["empathy"] == pytest.approx(0.0, abs=1e-4)


def test_formats_and_chunks_make_no_difference(
    source: Path, tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
):
    expected = score(source, tmp_path / "scores.jsonl", *models)
    monkeypatch.setattr(row_scores, "CHUNK_ROWS", 2)
    table = tmp_path / "pairs.csv"
    lines = ["Seeker Post,response-post,rewritten_response,response_id"]
    columns = ("seeker_post", "response_post", "rewritten_response", "response_id")
    lines += [",".join(f'"{row.get(column, "")}"' for column in columns) for row in ROWS]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = score(table, tmp_path / "from_csv.jsonl", *models)
    for there, here in zip(found, expected, strict=True):
        assert flat(there) == pytest.approx(flat(here), rel=1e-4, abs=1e-4)


def flat(value: object, path: str = "") -> dict[str, float]:
    """Numbers of a row by their path; the lines of rejected rows differ between formats."""
    if isinstance(value, dict):
        return {k: v for key, x in value.items() if key != "line" for k, v in flat(x, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, x in enumerate(value) for k, v in flat(x, f"{path}/{i}").items()}
    return {path: float(value)} if isinstance(value, int | float) else {f"{path}={value}": 0.0}


def test_parquet_files_may_have_rewritings(tmp_path: Path, models: list[str]):
    path, sample = tmp_path / "pairs.parquet", read_examples("sample").examples[:3]
    write_parquet(sample, path)
    (plain, *_) = score(path, tmp_path / "a.jsonl", "--only", "empathy", *models)
    assert "reward" not in plain
    rewritten = [None, "I am so sorry. That is hard.", " "]
    pq.write_table(pq.read_table(path).append_column("rewritten_response", pa.array(rewritten)), path)
    rows = score(path, tmp_path / "b.jsonl", "--only", "empathy", "--with-text", *models)
    assert "reward" not in rows[0]
    assert rows[0]["response_post"] == sample[0].response_post
    assert list(rows[1]["reward"]["raw"]) == ["empathy"]
    assert rows[1]["rewritten_response"] == rewritten[1]
    assert rows[2]["error"] == "rewritten_response is empty"


def test_only_what_is_asked_for_is_loaded(source: Path, tmp_path: Path, models: list[str]):
    options = [option for option in models if "reward_lm" not in option]
    rows = score(source, tmp_path / "a.jsonl", "--only", "empathy", *options, "models.reward_lm=no/such/model")
    assert [key for key in rows[2] if key not in ("row", "ids")] == ["empathy"]


def test_a_row_that_a_scorer_refuses_costs_itself_only(
    source: Path, tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
):
    original = FluencyScorer.score

    def refuse(self: FluencyScorer, items: Sequence[Item]) -> FloatArray:
        if any("secret" in text for (text,) in items):
            raise ValueError(f"cannot read {SECRET}")
        return original(self, items)

    monkeypatch.setattr(FluencyScorer, "score", refuse)
    rows = score(source, tmp_path / "a.jsonl", "--only", "fluency", *models)
    assert ["error" in row for row in rows] == [False, True, False, True, True]
    assert "ValueError" in rows[3]["error"]
    assert "secret" not in rows[3]["error"]


def broken_parquet(folder: Path) -> Path:
    path = folder / "truncated.parquet"
    write_parquet(read_examples("sample").examples[:9], path)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def written(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing.csv", "no data at"),
        (broken_parquet, "truncated or no Parquet file"),
        (written("empty.jsonl", ""), "holds no pairs"),
        (written("wrong.csv", "a,b\n1,2\n"), "lacks the columns seeker_post, response_post"),
        (
            written("blank.jsonl", '{"seeker_post": "a", "response_post": ""}\n'),
            "holds no usable pair: 1 rows rejected",
        ),
        (written("odd.xlsx", "x"), "cannot tell the format"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    make: Callable[[Path], Path], message: str, tmp_path: Path, models: list[str], capsys
):
    (tmp_path / "in").mkdir()
    source, output = make(tmp_path / "in"), tmp_path / "out" / "scores.jsonl"
    assert run_here("rewards", "score", "--input", source, "--output", output, *models) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Reading")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not list(output.parent.glob("*"))


def test_a_source_that_changes_is_noticed(
    source: Path, tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch, capsys
):
    build = FluencyBuilder.build

    def build_slowly(self: FluencyBuilder) -> FluencyScorer:
        with source.open("a") as file:
            file.write(json.dumps(ROWS[0]) + "\n")
        return build(self)

    monkeypatch.setattr(FluencyBuilder, "build", build_slowly)
    output = tmp_path / "scores.jsonl"
    assert run_here("rewards", "score", "--input", source, "--output", output, "--only", "fluency", *models) == 1
    assert "changed while it was read (5 rows, then 6)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_options_that_make_no_sense_are_explained(source: Path, tmp_path: Path, models: list[str], capsys):
    for options, message in (
        (["--preset", "smoke"], "no empathy classifier is named: give --run RUN or --empathy FOLDER"),
        (["--only", "charm", *models], "--only charm: give one or more of empathy, fluency"),
        (["--run", str(tmp_path)], "is no run folder"),
        (["--empathy", str(tmp_path / "absent"), "--only", "empathy"], "no empathy classifier in"),
    ):
        assert run_here("rewards", "score", "--input", source, "--output", tmp_path / "out.jsonl", *options) == 1
        assert message in " ".join(capsys.readouterr().err.split())
    assert run_here("rewards", "score", "--input", source, "--output", source, *models) == 1
    assert "is an input" in capsys.readouterr().err
    for given in ("0", "", "two", "1.5"):
        with pytest.raises(PartnerError, match="--replicas"):
            replica_counts(given)
    assert replica_counts("2, 1,2") == (2, 1)


class Hands:
    """A clock that goes on only when it is told to: a real one also counts what a busy machine does in between."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def work(self) -> None:
        self.seconds += 0.05


class Worker(torch.nn.Module):
    def __init__(self, clock: Hands, *inner: torch.nn.Module) -> None:
        super().__init__()
        self.clock = clock
        self.inner = torch.nn.ModuleList(inner)

    def forward(self) -> None:
        self.clock.work()
        for module in self.inner:
            module()


class WorkingScorer:
    name = "working"

    def __init__(self, clock: Hands) -> None:
        self.clock = clock
        self.holder = [{"model": Worker(clock, Worker(clock), Worker(clock))}]

    def score(self, items: Sequence[Item]) -> FloatArray:
        model = self.holder[0]["model"]
        model()
        model.inner[0]()
        self.clock.work()
        return np.zeros((len(items), 1), np.float32)


def test_nested_modules_are_timed_once(monkeypatch: pytest.MonkeyPatch):
    clock = Hands()
    monkeypatch.setattr(timing, "time", clock)
    scorer = TimedScorer(WorkingScorer(clock))
    scorer.score([("a",)])
    assert clock.seconds == pytest.approx(0.25)
    assert scorer.phases().model == pytest.approx(0.2)
    assert scorer.phases().tokenizer == 0.0


def test_a_timed_scorer_scores_alike(model_cache: Path):
    builder = FluencyBuilder("random:gpt2", model_cache)
    items = [(RESPONSE,), (SECRET,)]
    timed = TimedBuilder(builder).build()
    np.testing.assert_array_equal(timed.score(items), builder.build().score(items))
    assert timed.phases().model > 0.0
    assert timed.phases().tokenizer > 0.0


@pytest.mark.slow
def test_a_pool_is_measured(local_ray: None, model_cache: Path, tmp_path: Path):
    config = RunConfig.model_validate(
        {"models": {"reward_lm": "random:gpt2", "cache_dir": str(model_cache)}, "rewards": {"num_cpus": 0.25}}
    )
    requests = bench_requests("sample", 24, 20_000)
    component = all_components(config, tmp_path)["fluency"]
    found = measure_pool("fluency", component, config, 2, 1, requests)
    assert (found.component, found.replicas, found.threads, found.pairs) == ("fluency", 2, 1, 24)
    assert found.items == len({request.rewritten_response for request in requests})
    assert found.pairs_per_second == pytest.approx(24 / found.seconds)
    shares = (found.model, found.tokenizer, found.scorer_rest, found.ray_and_waiting)
    assert all(0.0 < share < 1.0 for share in shares)
    assert sum(shares) == pytest.approx(1.0)
    assert bench_table([found]).row_count == 1


def test_replicas_share_the_cores():
    config = RunConfig()
    assert [pool_plan(config, count, 8, 0).groups[-1].threads for count in (1, 2, 3, 16)] == [8, 4, 2, 1]


@pytest.mark.slow
def test_the_bench_command_measures_every_replica_count(
    commands_share_ray: None, tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
):
    arguments = ["rewards", "bench", "--only", "coherence", "--replicas", "1,2", "--pairs", "12", *models]
    arguments += ["--json", str(tmp_path / "bench.json")]
    monkeypatch.setenv("COLUMNS", "200")
    result = partner(*arguments, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["component"], row["replicas"]) for row in figures["results"]] == [("coherence", 1), ("coherence", 2)]
    assert {"device", "versions", "models", "pairs"} < figures.keys()
    assert str(tmp_path) not in json.dumps(figures)
    assert "pairs/s" in result.stdout
