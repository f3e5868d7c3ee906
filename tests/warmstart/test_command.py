"""`partner-rl warmstart` on tiny models: what it leaves behind, how it goes on, what it says of bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.cli import main
from launch.training.warm_start_folder import WarmStartFolder
from partner_rl.config.schema import PolicyConfig
from partner_rl.data.parquet import write_tables
from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.policy.pretrained import load_policy
from partner_rl.types import EditAction, RewriteState
from partner_rl.warmstart.dataset import EXAMPLE_SCHEMA, examples_table
from partner_rl.warmstart.pairs import Draft, WarmStartExample
from rewards.empathy_model import EmpathyClassifier, EmpathyModel
from tests.helpers.command_line import environment
from tests.helpers.metric_keys import undeclared

WINDOW = 3
WAITING = """
import sys
import time
from pathlib import Path

from launch.cli import main
from partner_rl.warmstart.checkpoint import WarmStartState

save = WarmStartState.save


def save_and_wait(state, folder):
    save(state, folder)
    deadline = time.monotonic() + 240
    while not Path("pressed").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


WarmStartState.save = save_and_wait
main(sys.argv[1:])
"""
"""The command, which goes on from its first state only when there is a file `pressed`: it may not end before Ctrl-C."""
SMALL = ["--preset", "smoke", "resources.driver_threads=1", "evaluation.max_pairs=6"]


def warmstart(*arguments: object) -> int:
    """Runs the command in this process; returns its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(["warmstart", *map(str, arguments)])
    return int(ended.value.code or 0)


def write_pairs(folder: Path, seekers: int = 60) -> Path:
    """Examples as `partner-rl data warmstart-pairs` writes them."""
    drafts = [
        Draft(
            WarmStartExample(RewriteState(f"Post {n} is sad.", ("Ok.", "Bye.")), EditAction(n % 3, "I am so sorry.")),
            f"s{n}",
            f"r{n}",
            "emotional_reactions",
            2.0,
        )
        for n in range(seekers)
    ]
    write_tables(folder / "part-0.parquet", EXAMPLE_SCHEMA, [examples_table(drafts, WINDOW)])
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained empathy classifier."""
    run = tmp_path_factory.mktemp("run")
    bert = resolve("random:bert", None)
    torch.manual_seed(1)
    model = EmpathyModel.on_encoder(load_encoder(bert), max_tokens=32)
    EmpathyClassifier(model, load_tokenizer(bert), 32).save(run / "rewards" / "empathy")
    return run


def test_from_a_corpus_to_a_folder_that_rl_starts_from(tmp_path: Path, classifier: Path) -> None:
    output = tmp_path / "warm"
    assert warmstart(*SMALL, "-o", output, "--rewards", classifier, "warmstart.epochs=2") == 0
    names = {path.name for path in output.iterdir()}
    assert {"config.json", "model.safetensors", "partner_rl.json", "README.md", "losses.png", "config.yaml"} <= names
    assert not WarmStartFolder(output).work.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["warm"]
    load_policy(output, PolicyConfig(), WINDOW)

    report = json.loads((output / "warm_start.json").read_text())
    assert len(report["epochs"]) == 2
    assert {"chance", "majority", "majority_position"} == report["baselines"].keys()
    assert 0.0 <= report["test"]["position_accuracy"] <= 1.0
    rewrites = report["rewrites"]
    assert rewrites["responses"] == 6
    assert rewrites["change"] == pytest.approx(sum(rewrites["by_mechanism"].values()), abs=1e-6)
    assert rewrites["rewritten"] == pytest.approx(rewrites["original"] + rewrites["change"])

    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert undeclared(key for row in rows for key in row) == []
    assert sum("warmstart/train_loss" in row for row in rows) == report["steps"]
    assert [row["step"] for row in rows if "warmstart/dev/loss" in row] == [0, 2, 4]
    card = (output / "README.md").read_text()
    assert str(tmp_path) not in card
    assert "change in empathy of 6 greedy rewrites" in card


def test_the_examples_of_a_folder_are_split_by_seeker(tmp_path: Path) -> None:
    output = tmp_path / "warm"
    pairs = write_pairs(tmp_path / "pairs")
    assert warmstart(*SMALL, "-o", output, "--data", pairs, "warmstart.max_examples=100") == 0
    report = json.loads((output / "warm_start.json").read_text())
    assert 40 <= report["examples"] <= 56
    assert report["test"] is not None
    assert report["rewrites"] is None


@pytest.mark.slow
@pytest.mark.reported
def test_a_lost_terminal_leaves_a_state_that_resumes_to_the_same_weights(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs")
    arguments = [*SMALL, "--data", pairs, "warmstart.epochs=3", "warmstart.max_examples=40", "warmstart.batch_size=2"]
    assert warmstart(*arguments, "-o", tmp_path / "whole", "warmstart.checkpoint_steps=1") == 0

    command = [sys.executable, "-c", WAITING, "warmstart", *map(str, arguments), "-o", "cut"]
    process = subprocess.Popen(
        [*command, "warmstart.checkpoint_steps=1"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    work = tmp_path / "cut.training"
    while process.poll() is None and not list(work.glob("step-*")):
        time.sleep(0.01)
    for _ in range(2):
        # The kernel tells of it, and so does the shell.
        process.send_signal(signal.SIGHUP)
    (tmp_path / "pressed").touch()
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 130, stderr
    assert "partner-rl warmstart --output cut --resume" in stderr
    assert not (tmp_path / "cut").exists()

    assert warmstart("-o", tmp_path / "cut", "--resume") == 0
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A folder of things that are wrong."""
    model = resolve("random:gpt2", None)
    without = tmp_path / "no-tokenizer"
    without.mkdir()
    for name in ("config.json", "model.safetensors"):
        (without / name).write_bytes((model / name).read_bytes())
    (tmp_path / "empty").mkdir()
    write_pairs(tmp_path / "none", seekers=0)
    write_pairs(tmp_path / "pairs")
    rows = "".join(f"I am sad about {n}.,Go out more.\n" for n in range(40))
    (tmp_path / "plain.csv").write_text(f"seeker_post,response_post\n{rows}", encoding="utf-8")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    (tmp_path / "half.training" / "step-00000001-0000").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "new", "models.policy=nowhere"], "nowhere"),
        (["-o", "new", "models.policy=no-tokenizer"], "no tokenizer in"),
        (["-o", "new", "--data", "missing"], "missing: `partner-rl data warmstart-pairs` makes such files"),
        (["-o", "new", "--data", "empty"], "empty: `partner-rl data warmstart-pairs` makes such files"),
        (["-o", "new", "--data", "none"], "holds no examples"),
        (["-o", "new", "--data", "pairs", "env.window=2"], "windows of 3 sentences, not 2"),
        (["-o", "new", "--rewards", "empty"], "empty"),
        (["-o", "new", "data.source=nowhere.csv"], "nowhere.csv (No such file"),
        (["-o", "new", "data.source=plain.csv"], "plain.csv gives no warm-start examples"),
        (["-o", "there"], "choose another --output"),
        (["-o", "half"], "unfinished training: go on with `partner-rl warmstart --output half --resume`"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(
    bad: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(bad)
    before = sorted(bad.iterdir())
    assert warmstart(*SMALL, *arguments) == 1
    error = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert message in error
    assert sorted(bad.iterdir()) == before


def test_resuming_needs_a_training_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warmstart("-o", tmp_path / "new", "--resume") == 1
    assert "there is no unfinished training" in capsys.readouterr().err
    assert warmstart("-o", tmp_path / "new", "--resume", "--data", "x") == 1
    assert "name another place of one by its key" in capsys.readouterr().err
