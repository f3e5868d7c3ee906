from __future__ import annotations

from pathlib import Path

from partner_rl.config.describe import configuration_markdown, describe_fields

ROOT = Path(__file__).resolve().parents[2]


def test_every_key_is_documented() -> None:
    undocumented = [field.key for field in describe_fields() if not field.documentation]
    assert undocumented == []


def test_types_and_defaults_are_in_words() -> None:
    fields = {field.key: field for field in describe_fields()}
    assert fields["algorithm.iterations"].type == "integer > 0"
    assert fields["evaluation.max_pairs"].type == "integer > 0 or null"
    assert fields["algorithm.advantage"].type == "one of 'reinforce', 'self_critical', 'rloo', 'grpo'"
    assert fields["tracking.tags"].type == "list of text"
    assert fields["policy.lora"].is_section
    assert fields["policy.lora"].default == "null"
    assert fields["policy.lora.rank"].default == "16"
    assert fields["rewards.empathy.micro_batch"].default == "32"


def test_the_reference_page_is_current() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == configuration_markdown(), "run `partner-rl config docs > docs/configuration.md`"
