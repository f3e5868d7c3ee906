from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partner_rl.config.load import assignments, load_config, preset_names, save_config
from partner_rl.config.schema import RunConfig
from partner_rl.config.yaml_text import dump_yaml, parse_yaml
from partner_rl.types import PartnerError


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def message_of(path_or_preset: str, overrides: Any = ()) -> str:
    with pytest.raises(PartnerError) as caught:
        load_config(path_or_preset, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_presets_are_those_of_the_documentation() -> None:
    assert preset_names() == ("cluster", "embedded", "epitome", "paper", "smoke")


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_loads_and_survives_saving(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(str(tmp_path / "config.yaml")) == config


def test_smoke_accepts_two_env_runners_and_two_learners() -> None:
    config = load_config("smoke", ["algorithm.num_env_runners=2", "algorithm.num_learners=2", "rewards.replicas=2"])
    assert (config.algorithm.num_env_runners, config.algorithm.num_learners, config.rewards.replicas) == (2, 2, 2)


def test_paper_has_the_published_numbers() -> None:
    config = load_config("paper")
    rewards = config.rewards
    weights = (
        rewards.empathy.weight,
        rewards.fluency.weight,
        rewards.coherence.weight,
        rewards.mutual_information.weight,
    )
    assert weights == (1.0, 10.0, 0.1, 0.1)
    assert (config.algorithm.advantage, config.algorithm.baseline_window, config.algorithm.learning_rate) == (
        "reinforce",
        20,
        1e-5,
    )
    assert (config.policy.top_p, config.policy.top_k, config.policy.temperature) == (0.92, 60, 1.0)


def test_cluster_asks_for_eight_gpus() -> None:
    config = load_config("cluster")
    pools = (
        config.rewards.empathy,
        config.rewards.fluency,
        config.rewards.coherence,
        config.rewards.mutual_information,
    )
    gpus = sum((pool.replicas or config.rewards.replicas) * pool.num_gpus for pool in pools)
    gpus += config.algorithm.num_env_runners * config.algorithm.num_gpus_per_env_runner
    gpus += config.algorithm.num_learners * config.algorithm.num_gpus_per_learner
    assert gpus == 8


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "# nothing\n")) == RunConfig(runs_dir=str(Path("runs").absolute()))


def test_numbers_lists_and_dates_are_read_as_written(tmp_path: Path) -> None:
    path = write(tmp_path, "name: 2026-01-31\nalgorithm:\n  learning_rate: 1e-5\ntracking:\n  tags: [first, second]\n")
    config = load_config(path)
    assert config.name == "2026-01-31"
    assert config.algorithm.learning_rate == 1e-5
    assert config.tracking.tags == ("first", "second")


def test_overrides_are_yaml_values() -> None:
    config = load_config(
        "smoke",
        ["algorithm.learning_rate=3e-4", "tracking.tags=[a, b]", "evaluation.max_pairs=null", "name='7'", "seed=7"],
    )
    assert config.algorithm.learning_rate == 3e-4
    assert config.tracking.tags == ("a", "b")
    assert config.evaluation.max_pairs is None
    assert (config.name, config.seed) == ("7", 7)


def test_an_override_creates_and_removes_an_optional_section() -> None:
    created = load_config("smoke", ["policy.lora.rank=8"]).policy.lora
    assert created is not None
    assert (created.rank, created.alpha) == (8, 32.0)
    assert load_config("embedded", ["policy.lora=null"]).policy.lora is None
    replaced = load_config("embedded", ["policy.lora={rank: 4}"]).policy.lora
    assert replaced is not None
    assert replaced.rank == 4


def test_overrides_apply_in_the_order_given() -> None:
    lora = load_config("smoke", ["policy.lora.alpha=2", "policy.lora=null", "policy.lora.rank=4"]).policy.lora
    assert lora is not None
    assert (lora.rank, lora.alpha) == (4, 32.0)


def test_a_sweep_overrides_with_plain_and_numpy_values() -> None:
    config = load_config(
        "smoke", assignments({"rewards.empathy.weight": np.float64(0.5), "algorithm.iterations": np.int64(3)})
    )
    assert config.rewards.empathy.weight == 0.5
    assert config.algorithm.iterations == 3


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("algorithm.num_env_runer=2", "did you mean algorithm.num_env_runners?"),
        ("algoritm.iterations=2", "did you mean algorithm.iterations?"),
        ("wandb=offline", "did you mean tracking.wandb?"),
        ("learning_rate=1", "did you mean warmstart.learning_rate or algorithm.learning_rate?"),
        ("policy.lora={rnk: 3}", "did you mean policy.lora.rank?"),
        ("qqqq=3", "valid here: name, runs_dir"),
        ("seed.zzz=3", "unknown key"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_one(override: str, nearest: str) -> None:
    message = message_of("smoke", [override])
    assert message.startswith("override ")
    assert nearest in message


def test_an_unknown_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "rewards:\n  empthy:\n    weight: 2\n")
    assert message_of(path) == f"{path}: rewards.empthy: unknown key; did you mean rewards.empathy?"


def test_a_dotted_key_in_a_file_says_how_to_write_it(tmp_path: Path) -> None:
    assert "inside its section" in message_of(write(tmp_path, "algorithm.iterations: 3\n"))


@pytest.mark.parametrize(
    ("override", "expected", "given_value"),
    [
        ("algorithm.iterations=many", "expected integer > 0", '"many"'),
        ("algorithm.iterations=2.5", "expected integer > 0", "2.5"),
        ("algorithm.iterations=0", "expected integer > 0", "0"),
        ("algorithm.learning_rate=.nan", "expected number > 0", "NaN"),
        ("algorithm.learning_rate=.inf", "expected number > 0", "Infinity"),
        ("tracking.tensorboard=yes", "expected true or false", '"yes"'),
        ("tracking.wandb=on", "expected one of 'auto', 'online', 'offline', 'disabled'", '"on"'),
        ("tracking.tags=[1]", "expected list of text", "1"),
        ("policy=5", "expected section", "5"),
        ("policy.lora=5", "expected section (a mapping of keys) or null", "5"),
    ],
)
def test_a_wrong_value_says_what_is_expected_and_what_was_given(override: str, expected: str, given_value: str) -> None:
    message = message_of("smoke", [override])
    assert message.startswith(f"override {override.partition('=')[0]}: ")
    assert expected in message
    assert f"got {given_value}" in message


@pytest.mark.parametrize(
    ("override", "keys"),
    [
        ("algorithm.samples_per_group=1", ("advantage", "samples_per_group")),
        ("algorithm.num_env_runners=3", ("groups_per_iteration 2", "num_env_runners 3")),
        ("data.train_fraction=0.99", ("train_fraction 0.99", "dev_fraction 0.05")),
    ],
)
def test_a_contradiction_names_both_keys(override: str, keys: tuple[str, str]) -> None:
    message = message_of("smoke", [override])
    assert message.startswith("preset smoke with overrides: ")
    assert all(key in message for key in keys)


@pytest.mark.parametrize("override", ["algorithm.iterations", "=3", "seed=[", "seed=a: b: c"])
def test_a_malformed_override_is_one_line(override: str) -> None:
    assert "override" in message_of("smoke", [override])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: 1\nname: a\nseed: 2\n", "line 3: key 'seed' stands twice"),
        ("seed: [1\n", "line 2: "),
        ("- 1\n", "expected keys and values at the top, got [1]"),
        ("name: !!python/object:os.system x\n", "could not determine a constructor"),
        ("name: &a [*a]\n", "Circular reference"),
        ("name: !!binary aGVsbG8=\n", "type bytes"),
    ],
)
def test_a_bad_file_is_one_line_that_says_where(text: str, problem: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    message = message_of(path)
    assert message.startswith(f"{path}: ")
    assert problem in message


def test_a_file_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: café\n".encode("latin-1"))
    assert "is not UTF-8" in message_of(str(path))


def test_a_missing_file_or_preset_is_an_error(tmp_path: Path) -> None:
    assert "did you mean smoke?" in message_of("smok")
    assert "the presets are cluster, embedded, epitome, paper, smoke" in message_of(str(tmp_path / "zz.yaml"))
    assert "cannot be read" in message_of(str(tmp_path))


def test_many_mistakes_stay_one_line(tmp_path: Path) -> None:
    message = message_of(write(tmp_path, "".join(f"wrong_{letter}: 1\n" for letter in string.ascii_lowercase)))
    assert message.endswith("; and 23 more")


@pytest.mark.parametrize(
    "key", ["rewards.max_tokens", "rewards.empathy.max_tokens", "reward_training.empathy_max_tokens"]
)
def test_rewards_that_could_not_hold_an_edit_are_refused(key: str) -> None:
    lengths = ["policy.max_new_tokens=20", "policy.max_sentence_tokens=30", "env.max_edits=2"]
    load_config("embedded", [*lengths, f"{key}=100"])
    with pytest.raises(PartnerError, match=f"{key}=99 .* 40 tokens .* at least 100") as caught:
        load_config("embedded", [*lengths, f"{key}=99"])
    assert "\n" not in str(caught.value)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


@given(plain_values)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    assert parse_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize(
    "text", ["1e5", "1e-5", ".5", "1_000", "true", "null", "~", "", "no", "010", "1:30", "2026-01-31"]
)
def test_texts_that_look_like_other_values_survive(text: str) -> None:
    assert parse_yaml(dump_yaml({"name": text})) == {"name": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("20_000", 20000),
        ("010", "010"),
        ("no", "no"),
        ("", None),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)
