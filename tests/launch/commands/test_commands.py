"""Every command through the real command line, on tiny models and a real local Ray."""

import json

import pytest

from tests.helpers.command_line import partner
from tests.helpers.metric_keys import undeclared

# The first test of a process trains the finished run, too.
pytestmark = pytest.mark.timeout(1500)


@pytest.mark.slow
def test_quickstart_leaves_everything_that_the_readme_promises(finished_run):
    for name in ("config.yaml", "metrics.jsonl", "rewrites.jsonl", "summary.json", "export/model.safetensors"):
        assert (finished_run / name).stat().st_size > 0, name
    assert len(list((finished_run / "curves").glob("*.png"))) >= 3
    summary = json.loads((finished_run / "summary.json").read_text())
    assert list(summary["systems"]) == ["original", "warm_start", "rl"]
    asked = {
        "change_in_empathy",
        "perplexity",
        "coherence",
        "specificity",
        "distinct_2",
        "distinct_sentences",
        "edit_rate",
        "n",
    }
    assert all(asked <= scores.keys() for scores in summary["systems"].values())
    assert summary["systems"]["original"]["change_in_empathy"] == 0
    assert {"seconds", "episodes_per_second", "seed", "versions", "device"} <= summary.keys()


@pytest.mark.slow
def test_every_component_is_logged_raw_and_weighted(finished_run):
    rows = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert undeclared(key for row in rows for key in row) == []
    for name in ("empathy", "fluency", "coherence", "mutual_information"):
        assert f"reward/raw/{name}" in rows[0]
        assert f"reward/weighted/{name}" in rows[0]
    for row in rows:
        weighted = sum(value for key, value in row.items() if key.startswith("reward/weighted/"))
        assert weighted == pytest.approx(row["reward/total"], abs=1e-4)
        assert row["train/logprob_gap"] < 1e-4


@pytest.mark.slow
def test_plain_transformers_loads_the_export(finished_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished_run / "export")
    tokenizer = AutoTokenizer.from_pretrained(finished_run / "export")
    out = model.generate(**tokenizer("Post: hello", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert out.shape[1] > 3


def mixed_pairs() -> list[dict[str, object]]:
    """Sixty pairs of every quality."""
    good = {"seeker_post": "I cannot sleep and I worry all night.", "response_post": "Try a book. Or tea."}
    odd = [
        {"seeker_post": "😭😭", "response_post": "🙂"},
        {"seeker_post": "help", "response_post": "no"},
        {"seeker_post": "I feel lost.", "response_post": "Take a walk every day. " * 360},
        {"seeker_post": "<p>I am <b>tired</b></p>", "response_post": "<div>rest &amp; sleep</div>"},
        {"seeker_post": "No puedo más, estoy muy cansada.", "response_post": "Duerme un poco."},
        {"seeker_post": "Why me?", "response_post": ""},
        {"seeker_post": "   ", "response_post": "Be strong."},
        {"seeker_post": "I lost my job.\r\n\r\nAgain.", "response_post": "Look for one.\n\n- apply\n- wait"},
        {"seeker_post": 7, "response_post": "What?"},
    ]
    return [(odd + [good] * 3)[i % 12] for i in range(60)]


@pytest.mark.slow
def test_rewrite_has_a_result_or_an_error_for_each_of_60_mixed_pairs(finished_run, tmp_path):
    pairs = mixed_pairs()
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    result = partner(
        "rewrite", "--model", finished_run, "--input", "in.jsonl", "--output", "out.jsonl", folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == len(pairs)
    for pair, row in zip(pairs, rows, strict=True):
        broken = pair["seeker_post"] == 7 or not str(pair["seeker_post"]).strip() or not str(pair["response_post"])
        assert ("error" in row) == broken
        if not broken:
            assert row["response_post"] == pair["response_post"]
            assert {"total", "empathy", "fluency", "coherence", "mutual_information"} <= row["scores"].keys()
    assert "45 of 60 pairs rewritten, 15 with an error" in result.stdout


@pytest.mark.slow
def test_rewrite_of_one_pair_prints_the_response(finished_run, tmp_path):
    result = partner(
        "rewrite", "--model", finished_run / "export", "--seeker", "I am sad.", "--response", "Go out.", folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rewrite", "--model", "nowhere", "--seeker", "a", "--response", "b"], "neither a run folder"),
        (["rewrite", "--model", "nowhere", "--seeker", "a"], "neither a run folder"),
        (["evaluate", "nowhere"], "no run folder"),
        (["train", "--resume", "nowhere"], "no run folder"),
        (["train", "--preset", "smok"], "smoke"),
        (["train", "--preset", "smoke", "algorithm.iteration=5"], "algorithm.iterations"),
        (
            ["train", "--preset", "smoke", "data.source=nowhere.csv", "name=x"],
            "nowhere.csv (No such file",
        ),
        (["train", "--preset", "smoke", "name=../x"], "no folder name"),
        (["train", "--preset", "smoke", "device=cuda", "name=x"], "GPU"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, arguments, message):
    result = partner(*arguments, folder=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert message in result.stderr


@pytest.mark.slow
def test_many_actors_of_every_kind(commands_share_ray, tmp_path):
    workers = ["algorithm.num_env_runners=2", "algorithm.num_learners=2", "rewards.replicas=2"]
    workers += [f"rewards.{name}.weight=0" for name in ("empathy", "coherence", "mutual_information")]
    workers += ["warmstart.epochs=0"]
    result = partner("train", "--preset", "smoke", "name=many", *workers, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "runs/many/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["train/logprob_gap"] < 1e-4 for row in rows)
    assert (tmp_path / "runs/many/export/model.safetensors").is_file()
