"""The registry turns a configuration into components."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from partner_rl.config.schema import RunConfig
from rewards.coherence import CoherenceBuilder
from rewards.empathy import EmpathyBuilder
from rewards.fluency import FluencyBuilder
from rewards.listener import ListenerReward
from rewards.listener_models import BACKWARD, ENCODER, ListenerBuilder
from rewards.mutual_information import MutualInformationBuilder, MutualInformationReward
from rewards.registry import active_components, all_components


def test_components_follow_the_configuration(tmp_path: Path):
    config = RunConfig.model_validate(
        {
            "models": {"reward_lm": "random:gpt2", "cache_dir": str(tmp_path)},
            "rewards": {
                "max_tokens": 177,
                "empathy": {"score": "argmax", "num_gpus": 0.5, "max_tokens": 188},
                "coherence": {"checkpoint": "/some/folder", "weight": 0.0},
                "mutual_information": {"lambda_mi": 0.25, "backward_checkpoint": "random:llama"},
            },
        }
    )
    components = all_components(config, tmp_path / "run")
    assert list(components) == ["empathy", "fluency", "coherence", "mutual_information"]
    assert all(name == component.definition.name for name, component in components.items())
    assert components["empathy"].builder == EmpathyBuilder(
        tmp_path / "run" / "rewards" / "empathy", "argmax", 188, "cuda"
    )
    assert components["fluency"].builder == FluencyBuilder("random:gpt2", tmp_path, 177, "cpu")
    assert components["coherence"].builder == CoherenceBuilder(Path("/some/folder"), 177, "cpu")
    assert components["mutual_information"].builder == MutualInformationBuilder(
        "random:gpt2", "random:llama", tmp_path, 177, "cpu"
    )
    assert components["mutual_information"].definition == MutualInformationReward(0.25)
    assert list(active_components(config, tmp_path)) == ["empathy", "fluency", "mutual_information"]
    pickle.loads(pickle.dumps(components))


@pytest.mark.parametrize("wanted", [{"weight": 0.5}, {"schedule": ((1, 0.0), (9, 1.0))}])
def test_the_listener_is_there_for_who_gives_it_a_weight(wanted: dict[str, object], tmp_path: Path):
    rewards = {"mutual_information": {"backward_checkpoint": "random:llama"}, "listener": wanted}
    config = RunConfig.model_validate({"rewards": rewards, "data": {"source": "/some/pairs.csv"}})
    (encoder,) = (c for name, c in all_components(config, tmp_path).items() if name == "listener")
    assert "listener" in active_components(config, tmp_path)
    assert isinstance(encoder.builder, ListenerBuilder)
    assert (encoder.builder.kind, encoder.builder.model) == (ENCODER, "pypi:all-minilm-l6-v2")
    assert encoder.builder.data.source == "/some/pairs.csv"
    rewards["listener"] = {**wanted, "scorer": "backward", "candidates": 4}
    backward = all_components(RunConfig.model_validate({"rewards": rewards}), tmp_path)["listener"]
    assert isinstance(backward.builder, ListenerBuilder)
    assert (backward.builder.kind, backward.builder.model) == (BACKWARD, "random:llama")
    assert backward.builder.data.source == "sample"
    assert backward.builder.candidates == 4
    assert backward.definition == ListenerReward(4)
    assert pickle.loads(pickle.dumps(backward)) == backward
