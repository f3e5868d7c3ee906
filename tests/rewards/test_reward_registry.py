"""The registry turns a configuration into the four components."""

from __future__ import annotations

import pickle
from pathlib import Path

from partner_rl.config.schema import RunConfig
from rewards.coherence import CoherenceBuilder
from rewards.empathy import EmpathyBuilder
from rewards.fluency import FluencyBuilder
from rewards.mutual_information import MutualInformationBuilder, MutualInformationReward
from rewards.registry import active_components, all_components


def test_components_follow_the_configuration(tmp_path: Path):
    config = RunConfig.model_validate(
        {
            "models": {"reward_lm": "random:gpt2", "cache_dir": str(tmp_path)},
            "rewards": {
                "max_tokens": 177,
                "empathy": {"score": "argmax", "num_gpus": 0.5, "max_tokens": 188},
                "coherence": {"checkpoint": "some/folder", "weight": 0.0},
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
    assert components["coherence"].builder == CoherenceBuilder(Path("some/folder").absolute(), 177, "cpu")
    assert components["mutual_information"].builder == MutualInformationBuilder(
        "random:gpt2", "random:llama", tmp_path, 177, "cpu"
    )
    assert components["mutual_information"].definition == MutualInformationReward(0.25)
    assert list(active_components(config, tmp_path)) == ["empathy", "fluency", "mutual_information"]
    pickle.loads(pickle.dumps(components))
