"""The four components together, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from partner_rl.config.schema import RunConfig
from partner_rl.types import MECHANISMS, PartnerError, ScoreRequest
from rewards.local import LocalRewards
from rewards.registry import all_components


def test_four_components_make_one_reward(
    empathy_checkpoint: Path, coherence_checkpoint: Path, model_cache: Path, tmp_path: Path, texts: tuple[str, ...]
):
    config = RunConfig.model_validate(
        {
            "models": {"reward_lm": "random:gpt2", "cache_dir": str(model_cache)},
            "rewards": {
                "empathy": {"checkpoint": str(empathy_checkpoint)},
                "coherence": {"checkpoint": str(coherence_checkpoint)},
                "fluency": {"weight": 0.0},
            },
        }
    )
    components = all_components(config, tmp_path)
    rewards = LocalRewards(components)
    requests = [ScoreRequest(t, "ok", f"I am here. {t}", ("I am here.",), (t,)) for t in texts]
    for breakdown in rewards.score(requests):
        assert list(breakdown.raw) == ["empathy", "coherence", "mutual_information"]
        assert breakdown.weighed(config.rewards.weights()).total == pytest.approx(
            breakdown.raw["empathy"] + 0.1 * breakdown.raw["coherence"] + 0.1 * breakdown.raw["mutual_information"]
        )
        assert {f"empathy/{name}" for name in MECHANISMS} < breakdown.details.keys()
        assert -6.0 <= breakdown.raw["empathy"] <= 6.0
        assert 0.0 <= breakdown.raw["coherence"] <= 1.0
        assert breakdown.raw["mutual_information"] < 0.0
    assert rewards.score_items("fluency", [(text,) for text in texts]).shape == (len(texts), 3)
    assert rewards.score_items("coherence", []).shape == (0, 1)
    with pytest.raises(PartnerError, match="no reward component 'other'"):
        rewards.score_items("other", [])


def test_an_unchanged_response_changes_no_empathy(
    empathy_checkpoint: Path, model_cache: Path, tmp_path: Path, texts: tuple[str, ...]
):
    config = RunConfig.model_validate({"rewards": {"empathy": {"checkpoint": str(empathy_checkpoint)}}})
    component = all_components(config, tmp_path)["empathy"]
    requests = [ScoreRequest("I am tired.", text, text, (), (text,)) for text in texts]
    for breakdown in LocalRewards({"empathy": component}).score(requests):
        assert breakdown.raw["empathy"] == 0.0
