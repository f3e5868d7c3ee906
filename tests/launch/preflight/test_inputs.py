"""Named inputs: what preflight says of a folder is what loading it would say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.preflight.check_request import doctor_request, model_facts, run_request
from launch.preflight.inputs import option_fact
from launch.preflight.requirements import require_inputs
from partner_rl.config.inputs import kinds_by_key
from partner_rl.config.load import Assignment, load_config
from partner_rl.config.paths import Kind
from partner_rl.curation.topic import TopicFilter
from partner_rl.evaluation.judge import load_judge
from partner_rl.models.loading import load_causal_lm, load_encoder, load_tokenizer
from partner_rl.policy.pretrained import load_policy
from partner_rl.types import PartnerError
from rewards.coherence_model import CoherenceClassifier
from rewards.empathy import EmpathyBuilder
from tests.helpers import artefacts

CONFIG = load_config("smoke")


def _load_lm(folder: Path) -> None:
    load_tokenizer(folder)
    load_causal_lm(folder)


def _load_encoder(folder: Path) -> None:
    load_tokenizer(folder)
    load_encoder(folder)


LOADERS: dict[Kind, Callable[[Path], object]] = {
    Kind.EMPATHY: lambda folder: EmpathyBuilder(folder).build(),
    Kind.COHERENCE: lambda folder: CoherenceClassifier.load(folder, 64),
    Kind.POLICY: lambda folder: load_policy(folder, CONFIG.policy, CONFIG.env.window),
    Kind.BASE_POLICY: lambda folder: load_policy(folder, CONFIG.policy, CONFIG.env.window),
    Kind.JUDGE: load_judge,
    Kind.SEQ2SEQ: _load_lm,
    Kind.TOPIC: TopicFilter.load,
    Kind.LANGUAGE_MODEL: _load_lm,
    Kind.ENCODER: _load_encoder,
}
WRITERS: dict[Kind, Callable[[Path], Path]] = {
    Kind.EMPATHY: artefacts.write_empathy,
    Kind.COHERENCE: artefacts.write_coherence,
    Kind.POLICY: artefacts.write_policy,
    Kind.BASE_POLICY: artefacts.write_language_model,
    Kind.JUDGE: artefacts.write_judge,
    Kind.SEQ2SEQ: artefacts.write_language_model,
    Kind.TOPIC: artefacts.write_topic,
    Kind.LANGUAGE_MODEL: artefacts.write_language_model,
    Kind.ENCODER: artefacts.write_encoder,
}


def _weights(folder: Path) -> Path:
    return next(iter(folder.glob("*.safetensors")))


def _cut(path: Path, to: int) -> None:
    path.write_bytes(path.read_bytes()[:to])


def _change(path: Path, **values: object) -> None:
    if path.is_file():
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def _replace(folder: Path, other: Callable[[Path], Path]) -> None:
    shutil.rmtree(folder)
    other(folder)


def _as_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("{}")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "nothing there": shutil.rmtree,
    "a file": _as_file,
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "no weights": lambda folder: _weights(folder).unlink(),
    "weights cut off": lambda folder: _cut(_weights(folder), -8),
    "an empty file of weights": lambda folder: _cut(_weights(folder), 0),
    "pickled weights": lambda folder: _weights(folder).rename(folder / "pytorch_model.bin"),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    "a damaged configuration": lambda folder: [_cut(path, 20) for path in folder.glob("*.json")],
    "other sizes": lambda folder: [
        _change(folder / "config.json", hidden_size=32, intermediate_size=32, encoder={"model_type": "bert"}),
        _change(folder / "judge.json", layers=[1, 2]),
    ],
    "an empathy classifier": lambda folder: _replace(folder, artefacts.write_empathy),
    "a coherence classifier": lambda folder: _replace(folder, artefacts.write_coherence),
    "a judge": lambda folder: _replace(folder, artefacts.write_judge),
    "a language model": lambda folder: _replace(folder, artefacts.write_language_model),
    "an encoder": lambda folder: _replace(folder, artefacts.write_encoder),
    "nothing wrong": lambda folder: None,
}


def _message(act: Callable[[], object]) -> str:
    try:
        act()
    except PartnerError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {kind: write(folder / kind.name) for kind, write in WRITERS.items()}


@pytest.mark.reported
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", WRITERS)
def test_preflight_and_loading_have_one_verdict(
    kind: Kind, damage: str, whole: dict[Kind, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(whole[kind], tmp_path / "input")
    DAMAGES[damage](folder)
    found = option_fact("--input", kind, folder, CONFIG).problem
    loaded = _message(lambda: LOADERS[kind](folder))
    assert bool(found) == bool(loaded), (found, loaded)
    assert "\n" not in found + loaded
    assert damage != "nothing wrong" or not found


@pytest.mark.reported
def test_a_bound_needs_an_ensemble_before_the_run_begins(tmp_path: Path) -> None:
    named = Assignment("rewards.empathy.checkpoint", tmp_path / "e")
    config = load_config("smoke", ["rewards.empathy.score=conservative", named])
    artefacts.write_empathy(tmp_path / "e")
    with pytest.raises(PartnerError, match="needs two or more"):
        require_inputs(config, run_request(config))
    shutil.rmtree(tmp_path / "e")
    artefacts.write_empathy(tmp_path / "e", members=2)
    require_inputs(config, run_request(config))
    shutil.rmtree(tmp_path / "e" / "members" / "2" / "tokenizer.json", ignore_errors=True)
    _cut(_weights(tmp_path / "e" / "members" / "2"), -8)
    with pytest.raises(PartnerError, match=r"rewards\.empathy\.checkpoint: "):
        require_inputs(config, run_request(config))


@pytest.mark.reported
def test_warm_start_examples_of_another_window_are_refused_before_the_run(tmp_path: Path) -> None:
    path = artefacts.write_warm_start_examples(tmp_path / "examples.parquet", window=5)
    config = load_config("smoke", [Assignment("warmstart.data", path)])
    with pytest.raises(PartnerError, match=r"warmstart\.data: .*windows of 5"):
        require_inputs(config, run_request(config))
    same = artefacts.write_warm_start_examples(tmp_path / "same.parquet", window=3)
    require_inputs(load_config("smoke", [Assignment("warmstart.data", same)]), run_request(config))
    assert len(artefacts.read_warmstart_examples(same)) == 1


INPUT_KEYS = [key for key, kind in kinds_by_key().items() if kind.is_input and kind is not Kind.CORPUS]


@pytest.mark.reported
@pytest.mark.parametrize("key", INPUT_KEYS)
def test_doctor_names_every_input_that_is_absent(key: str) -> None:
    config = load_config("smoke", [f"{key}=no/where"])
    problems = {fact.key: fact.problem for fact in model_facts(config, doctor_request(config)) if fact.problem}
    assert list(problems) == [key]
