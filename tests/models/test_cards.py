"""Model cards are what the hubs' own reader takes apart."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from launch.training.phases import policy_card
from partner_rl.config.load import load_config
from partner_rl.models.cards import model_card

TEXT = "# Judge\n\n- a point: with a colon\n\n| a | b |\n|---|---|\n| 1 | --- |\n"


def test_a_card_holds_its_text_and_its_metadata() -> None:
    card = ModelCard(model_card(TEXT, "empathy", "judge", library=None))
    assert card.data.to_dict() == {"tags": ["partner-rl", "empathy", "judge"]}
    assert card.text.strip() == TEXT.strip()
    assert ModelCard(model_card(TEXT)).data.library_name == "transformers"


def test_a_policys_card_says_where_it_comes_from_without_local_paths(tmp_path: Path) -> None:
    config = load_config("smoke", [f"models.policy={tmp_path / 'base'}", f"data.source={tmp_path / 'pairs.csv'}"])
    card = ModelCard(policy_card(config))
    assert card.data.tags == ["partner-rl", "empathic-rewriting"]
    assert "Started from: base" in card.text
    assert "Data: pairs.csv, seed 0" in card.text
    assert str(tmp_path) not in card.content
