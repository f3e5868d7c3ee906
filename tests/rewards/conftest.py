"""Tiny random models, texts of every awkward kind, and classifiers' folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from partner_rl.models.loading import load_encoder, load_tokenizer
from partner_rl.models.sources import resolve
from rewards.coherence_model import CoherenceClassifier, CoherenceModel
from rewards.empathy_model import EmpathyClassifier, EmpathyModel

TEXTS = (
    "I am tired.",
    "Nobody at work talks to me, and I eat lunch alone every day. It makes me feel like I am not there.",
    "ok",
    "🙂🙂🙂",
    "What happened today?",
    "Ich weiß nicht mehr weiter, und niemand hört mir zu.",
    "<p>My <b>exam</b> went badly &amp; now my parents do not talk to me</p>",
    "Thank you for telling us! Have you been able to sleep? " * 6,
)


@pytest.fixture(scope="session")
def texts() -> tuple[str, ...]:
    return TEXTS


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def bert(model_cache: Path) -> Path:
    return resolve("random:bert", model_cache)


@pytest.fixture(scope="session")
def empathy_checkpoint(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained empathy classifier whose two encoders differ and whose heads are far from uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = EmpathyModel.on_encoder(load_encoder(bert), 64)
        for parameter in [*model.mechanisms.parameters(), *model.response_encoder.parameters()]:
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("rewards") / "empathy"
    EmpathyClassifier(model, load_tokenizer(bert), 64).save(folder)
    return folder


@pytest.fixture(scope="session")
def coherence_checkpoint(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = CoherenceModel(load_encoder(bert))
        for parameter in model.head.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("rewards") / "coherence"
    CoherenceClassifier(model, load_tokenizer(bert), 64).save(folder)
    return folder
