"""Named inputs on the command line: absent ones end a command before anything is made, names stand as given."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launch.run_folder.folder import RunFolder
from launch.sweep.spec import read_spec
from launch.training.phases import load_splits, train_reward_models
from partner_rl.config.inputs import kinds_by_key, named_inputs
from partner_rl.config.load import Assignment, config_yaml, load_config
from partner_rl.config.section import MAX_SEED
from partner_rl.config.yaml_text import parse_yaml
from partner_rl.data.splits import Splits
from partner_rl.evaluation.baselines.generation import generate_answers, random_streams
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.types import MECHANISMS, Example, MechanismLabel, PartnerError
from partner_rl.warmstart.examples import make_examples
from tests.helpers import artefacts
from tests.helpers.command_line import run_here

pytestmark = pytest.mark.reported

PAIRS = "seeker_post,response_post\nI failed again.,Try harder. You can do it.\n"
ODD_NAMES = (
    *("my data #1.csv", "2024.csv", "a: b.csv", "[x].csv", "null", "true", "~draft.csv", "'quoted'.csv", '"q".csv'),
    *(
        " blank .csv",
        "C:\\x.csv",
        "{a}.csv",
        "- b.csv",
        "&c.csv",
        "*d.csv",
        "!e.csv",
        "%f.csv",
        "@g.csv",
        "1e5",
        "ü é.csv",
    ),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("PARTNER_RL_CACHE", str(Path.home() / ".cache" / "partner-rl"))
    monkeypatch.setenv("HOME", str(home))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def _said(capfd: pytest.CaptureFixture[str]) -> str:
    found = capfd.readouterr()
    return found.out + found.err


TINY = (
    *("data.max_train_pairs=40", "data.train_fraction=0.94", "data.dev_fraction=0.03"),
    *("reward_training.max_pairs=8", "reward_training.coherence_max_responses=8"),
)
COMMANDS = {
    "train": ["train", "--preset", "smoke", "name=a"],
    "quickstart": ["quickstart", "--preset", "smoke", "name=a"],
    "ablate": ["ablate", "--preset", "smoke", "--only", "no_coherence"],
}
RUN_KEYS = (
    *("data.source", "models.policy", "models.reward_lm", "models.encoder", "warmstart.checkpoint", "warmstart.data"),
    *("rewards.empathy.checkpoint", "rewards.coherence.checkpoint", "evaluation.judge"),
    *("rewards.mutual_information.forward_checkpoint", "rewards.mutual_information.backward_checkpoint"),
)


@pytest.mark.parametrize("key", RUN_KEYS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_input_ends_the_command_before_it_makes_anything(
    command: str, key: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    judged = ["guards.judge_every=1"] if key == "evaluation.judge" else []
    assert run_here(*COMMANDS[command], f"{key}=no/where", *judged) == 1
    said = _said(capfd)
    assert key in said
    assert str(here / "no" / "where") in said
    assert "unexpected" not in said
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("key", ["rewards.empathy.checkpoint", "rewards.coherence.checkpoint"])
def test_what_is_named_is_never_trained(key: str, here: Path) -> None:
    config = load_config("smoke", [Assignment(key, here / "named"), "name=a", *TINY])
    run = RunFolder.create(config, default_name="a")
    train_reward_models(config, run, load_splits(config))
    assert not (here / "named").exists()
    other = "coherence" if "empathy" in key else "empathy"
    assert [path.name for path in run.rewards.iterdir()] == [other]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["empathy", "coherence"])
def test_doctor_takes_every_classifier_that_training_takes(
    kind: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here("rewards", "train", kind, "--preset", "smoke", "--data", "sample", "--output", "m1", *TINY) == 0
    for command in (["doctor"], ["train", "--dry-run"], ["quickstart", "--dry-run"]):
        assert run_here(*command, "--preset", "smoke", f"rewards.{kind}.checkpoint=m1") == 0, _said(capfd)
    (here / "m1" / "model.safetensors").unlink()
    for command in (["doctor"], ["train", "--dry-run"], ["train"]):
        assert run_here(*command, "--preset", "smoke", f"rewards.{kind}.checkpoint=m1") == 1
    assert not (here / "runs").exists()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_options_and_keys_take_names_as_they_are(name: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (here / name).write_text(PAIRS)
    config = load_config("smoke", [Assignment("data.source", name), Assignment("evaluation.judge", Path(name))])
    assert config.data.source == config.evaluation.judge == str(here / name)
    assert load_config("smoke", [f"data.source={name}"]).data.source.endswith(name.strip("'\""))
    # What a run's config.yaml keeps is read back as it was.
    (here / "c.yaml").write_text(config_yaml(config), encoding="utf-8")
    assert load_config("c.yaml") == config
    if name.endswith(".csv"):
        assert run_here("quickstart", "--preset", "smoke", "--data", name, "--dry-run") == 0, _said(capfd)


def test_a_text_key_takes_numbers_and_yaml_signs_and_null() -> None:
    config = load_config("smoke", ["name=2024", "tracking.notes=a: b #1", "tracking.group=[x]", "tracking.entity=null"])
    assert (config.name, config.tracking.notes, config.tracking.group) == ("2024", "a: b #1", "[x]")
    assert config.tracking.entity is None
    assert load_config("smoke", ["name='null'", 'tracking.notes="a\\tb"']).name == "null"
    with pytest.raises(PartnerError, match=r"expected list of text"):
        load_config("smoke", ["tracking.tags=a"])


def test_a_number_in_a_file_where_text_is_meant_says_so(here: Path) -> None:
    (here / "c.yaml").write_text("name: 2024\n")
    with pytest.raises(PartnerError, match=r"c\.yaml: name: expected text or null, got 2024 \(write it in quotes\)"):
        load_config("c.yaml")


def test_paths_start_from_where_they_were_written(here: Path) -> None:
    (here / "configs").mkdir()
    (here / "configs" / "run.yaml").write_text("data: {source: pairs.csv}\nruns_dir: ../runs\nmodels: {policy: ./lm}\n")
    config = load_config("configs/run.yaml", ["evaluation.judge=judge"])
    assert config.data.source == str(here / "configs" / "pairs.csv")
    assert config.models.policy == str(here / "configs" / "lm")
    assert Path(config.runs_dir).resolve() == here / "runs"
    assert config.evaluation.judge == str(here / "judge")
    assert config.models.encoder == "pypi:all-minilm-l6-v2"
    assert load_config("smoke").runs_dir == str(here / "runs")


def test_paths_of_a_sweep_start_from_its_spec(here: Path) -> None:
    (here / "specs").mkdir()
    (here / "specs" / "s.yaml").write_text(
        "base: base.yaml\noverrides: {data.source: pairs.csv}\n"
        "space: {warmstart.checkpoint: {choice: [a, b, null]}, models.policy: {grid: ['random:llama', lm]}}\n"
        "search: grid\n"
    )
    spec, _ = read_spec("specs/s.yaml")
    folder = here / "specs"
    assert spec.base == str(folder / "base.yaml")
    assert spec.overrides == {"data.source": str(folder / "pairs.csv")}
    assert spec.space["warmstart.checkpoint"].choice == (str(folder / "a"), str(folder / "b"), None)
    assert spec.space["models.policy"].grid == ("random:llama", str(folder / "lm"))


def test_a_sweep_over_checkpoints_looks_at_each_of_them(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artefacts.write_empathy(here / "good")
    (here / "s.yaml").write_text(
        "base: smoke\nspace: {rewards.empathy.checkpoint: {grid: [good, typo]}}\nsearch: grid\n"
    )
    assert run_here("sweep", "s.yaml", "--output", "out") == 1
    assert str(here / "typo") in _said(capfd)
    assert run_here("sweep", "s.yaml", "--output", "out", "--dry-run") == 1
    assert str(here / "typo") in " ".join(_said(capfd).split())
    assert not (here / "out").exists()


def test_names_of_ours_win_over_folders_of_the_working_directory(here: Path) -> None:
    for name in ("sample", "smoke", "random:llama"):
        (here / name).mkdir()
    config = load_config("smoke", ["data.source=sample", "models.policy=random:llama"])
    assert (config.data.source, config.models.policy) == ("sample", "random:llama")
    assert load_config("smoke", ["data.source=./sample"]).data.source == str(here / "sample")


PATH_KEYS = list(kinds_by_key())


@pytest.mark.parametrize("key", PATH_KEYS)
def test_a_home_is_expanded_in_every_key(key: str, here: Path) -> None:
    for given in (f"{key}=~/a b", f"{key}='~/a b'"):
        values = parse_yaml(config_yaml(load_config("smoke", [given])))
        for name in key.split("."):
            values = values[name]
        assert values == str(Path.home() / "a b")
    with pytest.raises(PartnerError, match=rf"override {key}: ~nobody-of-this-name/x: there is no home folder"):
        load_config("smoke", [f"{key}=~nobody-of-this-name/x"])
    with pytest.raises(PartnerError, match="can be no path"):
        load_config("smoke", [f"{key}=''"])


def test_options_expand_a_home_that_the_shell_left_alone(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (Path.home() / "pairs.csv").write_text(PAIRS)
    artefacts.write_empathy(Path.home() / "m")
    given = ["--input=~/pairs.csv", "--output=~/out.jsonl", "--empathy=~/m", "--only=empathy", "--preset=smoke"]
    assert run_here("rewards", "score", *given, "--dry-run") == 0, _said(capfd)
    assert list(here.iterdir()) == []


def test_every_named_input_of_a_configuration_is_absolute_or_a_name(here: Path) -> None:
    config = load_config("smoke", [f"{key}=x/y" for key in kinds_by_key()])
    assert {one.key for one in named_inputs(config)} == {key for key, kind in kinds_by_key().items() if kind.is_input}
    assert {one.path for one in named_inputs(config)} == {here / "x" / "y"}


@pytest.mark.parametrize("given", ["device=cuda", "runs_dir=file", "runs_dir=file/below"])
def test_a_device_or_folder_that_is_not_there_is_told_before_the_run(
    given: str, here: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (here / "file").write_text("mine")
    for more in ([], ["--dry-run"]):
        assert run_here("train", "--preset", "smoke", "name=a", given, *more) == 1
        said = _said(capfd)
        assert "unexpected" not in said
        assert "file" in said or "torch sees no GPU" in said
    assert run_here("doctor", "--preset", "smoke", given) == 1
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize("seed", [0, MAX_SEED, MAX_SEED + 1, 2**63, 2**64, -1])
def test_seeds_are_those_that_every_library_takes(seed: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        with pytest.raises(PartnerError, match=r"override seed: expected integer ≥ 0 and ≤ 4294967295"):
            load_config("smoke", [f"seed={seed}"])
    else:
        np.random.RandomState(load_config("smoke", [f"seed={seed}"]).seed)


@pytest.mark.parametrize(
    "command",
    [
        ["rewrite", "--model", "m"],
        ["data", "generate", "out", "--rows", "10"],
        ["data", "warmstart-pairs", "in", "out"],
        ["data", "train-topic", "--positives", "sample", "-o", "t"],
    ],
)
def test_options_refuse_seeds_beyond_that(command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here(*command, "--seed", 2**32) == 2
    assert "4294967295" in _said(capfd)


@pytest.mark.parametrize("key", ["data.source", "name", "tracking.notes", "data"])
def test_text_that_is_not_unicode_is_refused_by_name(key: str) -> None:
    value = {"source": "\udcff.csv"} if key == "data" else "\udcff"
    for override in (Assignment(key, value), *([] if key == "data" else [f"{key}=\udcff"])):
        with pytest.raises(PartnerError, match=rf"override {key}.*is not UTF-8 text") as error:
            load_config("smoke", [override])
        str(error.value).encode()


def test_answers_that_a_baseline_has_no_positions_for_are_one_line() -> None:
    folder = resolve("random:gpt2")
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    streams = random_streams([Example("s", "r", "Post", "Reply")], 1000, 0)
    with pytest.raises(PartnerError, match=r"has positions for 1024 tokens.*1030.*baselines\.max_new_tokens"):
        generate_answers(model, tokenizer, [[1] * 30], streams, load_config("smoke").evaluation, [0], lambda *_: None)


@pytest.mark.parametrize("name", ["random:gpt2", "random:llama"])
def test_a_policy_with_too_few_positions_is_refused_before_the_run(
    name: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    long = ["policy.max_seeker_tokens=1024", f"models.policy={name}"]
    for command in (["train"], ["train", "--dry-run"], ["doctor"], ["warmstart", "--output", "w"]):
        assert run_here(*command, "--preset", "smoke", *long) == 1
        assert "has positions for 1024 tokens" in " ".join(_said(capfd).split())
    assert list(here.iterdir()) == []


def test_a_warm_start_whose_sentences_are_all_too_long_says_so() -> None:
    long = "I am so very sorry to hear of all that you had to go through in these weeks."
    response = f"{long} Drink some tea."
    labels = (MechanismLabel(2, (long,)), MechanismLabel(0), MechanismLabel(0))
    pairs = tuple(Example(f"s{n}", f"r{n}", f"I failed exam {n}.", response, labels) for n in range(4))
    config = load_config("smoke")
    with pytest.raises(PartnerError, match=r"none of its 4 empathic sentences can be learned.*policy\.max_new_tokens"):
        make_examples(config, Splits(pairs, (), pairs))
    assert make_examples(load_config("smoke", ["policy.max_new_tokens=40"]), Splits(pairs, (), pairs)).train
    bare = tuple(replace(pair, labels=None) for pair in pairs)
    with pytest.raises(PartnerError, match="needs labelled pairs"):
        make_examples(config, Splits(bare, (), bare))


def test_a_corpus_without_a_usable_pair_is_refused_before_the_run(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "empty.csv").write_text("seeker_post,response_post\n,\n,\n")
    assert run_here("train", "--preset", "smoke", "data.source=empty.csv") == 1
    assert "no usable pair" in _said(capfd)
    (here / "late.csv").write_text("seeker_post,response_post\n" + ",\n" * 500 + "I failed.,I am sorry.\n")
    assert run_here("doctor", "--preset", "smoke", "data.source=late.csv") == 0
    shutil.rmtree(here / "runs", ignore_errors=True)
    assert sorted(path.name for path in here.iterdir()) == ["empty.csv", "late.csv"]


@pytest.mark.reported
@pytest.mark.parametrize("command", [["runs", "list"], ["data", "label", "sample", "out", "--dry-run"]])
def test_a_home_is_expanded_in_every_command(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    option = "~/nothing" if command[0] == "runs" else "--model=~/nothing"
    assert run_here(*command, option) == 1
    said = capsys.readouterr()
    assert f"{Path.home()}/nothing" in (said.out + said.err).replace("\n", "")


@pytest.mark.reported
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["data", "curate", "sample", "out", "--topic-model=absent"], "--topic-model: no topic classifier in absent"),
        (["data", "label", "sample", "out", "--model=absent"], "--model: no empathy classifier in absent"),
        (["data", "warmstart-pairs", "sample", "out", "--model=absent"], "--model: no empathy classifier in absent"),
    ],
)
def test_a_model_of_the_data_pipeline_that_is_absent_is_told_before_the_corpus_is_converted(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    assert run_here(*command) == 1
    assert message in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.reported
@pytest.mark.parametrize(
    ("level", "override", "message"),
    [
        (0, "seed=0", "gives no warm-start examples"),
        (2, "data.max_empathy=1", "no pair of the train split has an empathy of at most data.max_empathy=1"),
    ],
)
@pytest.mark.parametrize("command", ["train", "quickstart"])
def test_a_corpus_that_leaves_a_later_phase_nothing_costs_no_training(
    here: Path, capsys: pytest.CaptureFixture[str], command: str, level: int, override: str, message: str
) -> None:
    levels = ",".join(f"{mechanism}_level" for mechanism in MECHANISMS)
    row = f"I am so tired of day {{0}}.,I am sorry to hear of day {{0}}. Try to rest.,{level},{level},{level}\n"
    text = f"seeker_post,response_post,{levels}\n" + "".join(row.format(day) for day in range(40))
    (here / "pairs.csv").write_text(text, encoding="utf-8")
    settings = ("--preset", "smoke", "name=x", "data.source=pairs.csv")
    assert run_here(command, *settings, override) == 1
    assert message in capsys.readouterr().err
    assert not (here / "runs" / "x" / "rewards").exists()
    # The name is free for another start.
    assert run_here("train", *settings, "warmstart.checkpoint=absent") == 1
    assert "exists" not in capsys.readouterr().err
