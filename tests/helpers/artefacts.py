"""Artefacts as trainings leave them, with untrained tiny models."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from partner_rl.config.load import load_config
from partner_rl.curation.topic import train_topic
from partner_rl.data.parquet import write_tables
from partner_rl.evaluation.judge import Judge
from partner_rl.evaluation.judge.head import JudgeHead
from partner_rl.evaluation.judge.states import ResponseStates
from partner_rl.models.loading import load_causal_lm, load_encoder, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.policy.pretrained import load_policy, save_policy
from partner_rl.types import MECHANISMS, NUM_LEVELS
from partner_rl.warmstart.dataset import EXAMPLE_SCHEMA, iter_warmstart_examples
from partner_rl.warmstart.pairs import WarmStartExample
from rewards.coherence_model import CoherenceClassifier, CoherenceModel
from rewards.empathy_ensemble import EmpathyEnsemble
from rewards.empathy_model import EmpathyClassifier, EmpathyModel


def write_empathy(folder: Path, members: int = 1) -> Path:
    """An empathy classifier as `rewards train empathy` writes it."""
    encoder = resolve("random:bert")
    models = [EmpathyModel.on_encoder(load_encoder(encoder), max_tokens=64) for _ in range(members)]
    EmpathyEnsemble(tuple(EmpathyClassifier(one, load_tokenizer(encoder), 64) for one in models)).save(folder)
    return folder


def write_coherence(folder: Path) -> Path:
    """A coherence classifier as `rewards train coherence` writes it."""
    encoder = resolve("random:bert")
    CoherenceClassifier(CoherenceModel(load_encoder(encoder)), load_tokenizer(encoder), 64).save(folder)
    return folder


def write_policy(folder: Path) -> Path:
    """A policy as a run of preset `smoke` exports it."""
    config = load_config("smoke")
    torch.manual_seed(0)
    save_policy(load_policy(resolve(config.models.policy), config.policy, config.env.window), folder)
    return folder


def write_judge(folder: Path) -> Path:
    """A judge as `judge train` writes it, one layer of `random:llama` behind it."""
    path = resolve("random:llama")
    states = ResponseStates(load_causal_lm(path), load_tokenizer(path), (1,))
    size = states.hidden_size
    head = JudgeHead(
        np.zeros(size), np.ones(size), np.ones((len(MECHANISMS), NUM_LEVELS, size)), np.zeros((len(MECHANISMS), 3))
    )
    Judge(states, head, "random:llama").save(folder)
    return folder


def write_topic(folder: Path) -> Path:
    """A topic classifier as `data train-topic` writes it."""
    posts = ([f"{text}, day {day}." for day in range(60)] for text in ("I feel so low", "I baked bread"))
    train_topic(*posts, resolve("random:bert"), folder)
    return folder


def write_language_model(folder: Path) -> Path:
    """A causal language model as `rewards train mi` and `baselines train-seq2seq` write it."""
    shutil.copytree(resolve("random:llama"), folder)
    return folder


def write_encoder(folder: Path) -> Path:
    """A text encoder."""
    shutil.copytree(resolve("random:bert"), folder)
    return folder


def read_warmstart_examples(source: Path, window: int | None = None) -> list[WarmStartExample]:
    """All examples of a file or folder, without their seekers."""
    return [example for _, example in iter_warmstart_examples(source, window)]


def write_warm_start_examples(path: Path, window: int = 3) -> Path:
    """A file of one example."""
    row = {"seeker_post": "I failed.", "span": ["Try tea."], "window": window, "position": 0, "sentence": "I am sorry."}
    write_tables(path, EXAMPLE_SCHEMA, [pa.Table.from_pylist([row], schema=EXAMPLE_SCHEMA)])
    return path
