"""The benchmark of set phrases: its items, the parts of the two halves, and the command on a tiny ensemble."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.command import run_command
from benchmarks.set_phrases import (
    FAULTS,
    ITEMS,
    NAME,
    SENTENCES,
    Terms,
    command,
    parts,
    payments,
    read_items,
    table,
    table_rows,
    terms_of,
)
from partner_rl.types import MECHANISMS
from rewards.empathy_ensemble import EmpathyEnsemble
from rewards.empathy_model import EmpathyClassifier
from tests.rewards import conftest as reward_fixtures

bert = reward_fixtures.bert
model_cache = reward_fixtures.model_cache
empathy_checkpoint = reward_fixtures.empathy_checkpoint


@pytest.fixture
def ensemble(empathy_checkpoint: Path) -> EmpathyEnsemble:
    """Two members, mixed with n-grams that know one phrase."""
    members = tuple(EmpathyClassifier.from_pretrained(empathy_checkpoint) for _ in range(2))
    levels = torch.tensor([[2, 0, 0], [2, 0, 0], [0, 0, 2], [0, 0, 2], [0, 0, 0], [0, 0, 0]])
    texts = ["I'm so sorry", "so sorry to hear that", "What happened?", "what happened today", "walk out", "walk home"]
    for member in members:
        member.model.ngrams.fit(texts, levels)
        member.model.config.ngram_weight = 0.5
    members[1].model.config.temperatures = [2.0] * 3
    return EmpathyEnsemble(members)


def test_there_are_two_hundred_items_and_none_twice() -> None:
    items = read_items(ITEMS)
    assert len(items) == 100
    for column in ("id", "post", *SENTENCES):
        assert len({getattr(item, column) for item in items}) == 100
    assert all(24 <= count <= 26 for fault, count in Counter(item.fault for item in items).items() if fault in FAULTS)
    assert Counter(item.mechanism for item in items) == dict(zip(MECHANISMS, (40, 30, 30), strict=True))


def test_paraphrases_share_no_four_words_with_their_phrases() -> None:
    for item in read_items(ITEMS):
        ours, theirs = (
            {tuple(words[i : i + 4]) for i in range(len(words) - 3)}
            for words in (text.lower().split() for text in (item.phrase, item.paraphrase))
        )
        assert not ours & theirs, item.id


def test_parts_by_hand_add_up_and_leave_out_the_half_that_does_not_move() -> None:
    def level(encoders: torch.Tensor, ngrams: torch.Tensor) -> np.ndarray:
        return (encoders * ngrams).flatten().double().numpy()

    # From 1 · 2 to 3 · 5: 15 − 2 = 13, of it (3 − 1) · (2 + 5) / 2 = 7 and (5 − 2) · (1 + 3) / 2 = 6.
    new, old = (Terms(torch.tensor([a]), torch.tensor([b])) for a, b in ((3.0, 5.0), (1.0, 2.0)))
    assert [float(part[0]) for part in parts(level, new, old)] == [7.0, 6.0]
    still = Terms(old.encoders_NML, new.ngrams_NML)
    assert [float(part[0]) for part in parts(level, still, old)] == [0.0, 3.0]


def test_terms_are_those_of_the_halves(ensemble: EmpathyEnsemble) -> None:
    classifier = ensemble.members[0]
    pairs = [("I am tired.", "I'm so sorry to hear that."), ("I am tired.", "Go home.")]
    terms = terms_of(classifier, pairs)
    torch.testing.assert_close(terms.encoders_NML + terms.ngrams_NML, classifier.level_logits(pairs))
    classifier.model.config.ngram_weight = 0.0
    alone = classifier.level_logits(pairs).log_softmax(-1)
    torch.testing.assert_close(terms.encoders_NML, 0.5 * alone, atol=1e-5, rtol=1e-4)


def test_what_is_paid_is_what_the_sentence_adds_and_the_parts_add_up(ensemble: EmpathyEnsemble) -> None:
    items = read_items(ITEMS)[:6]
    paid = payments(ensemble, items, deviations=1.0)
    for name in SENTENCES:
        new = [(item.post, f"{getattr(item, name)} {item.response}") for item in items]
        old = [(item.post, item.response) for item in items]
        expected_EN = (ensemble.expected_levels(new) - ensemble.expected_levels(old)).sum(-1).numpy()
        np.testing.assert_allclose(paid[name]["expected"], expected_EN[0], atol=1e-4)
        np.testing.assert_allclose(paid[name]["mean of members"], expected_EN.mean(0), atol=1e-4)
        np.testing.assert_allclose(paid[name]["encoders"] + paid[name]["n-grams"], paid[name]["expected"])
    assert paid["phrase"]["n-grams"].mean() > 0 != paid["phrase"]["encoders"].mean()
    rows = table_rows(paid, [item.fault for item in items], seed=0)
    figures = {row.name: row.figures["expected"] for row in rows}
    both = figures["set phrase"].value - figures["its paraphrase"].value
    assert figures["set phrase less paraphrase"].value == pytest.approx(both)
    assert all(figure.low <= figure.value <= figure.high for figure in figures.values())
    without = {name: {"n-grams": np.zeros(6)} for name in SENTENCES}
    (ratio,) = [
        row for row in table_rows(without, [item.fault for item in items], 0) if row.name == "senseless ÷ paraphrase"
    ]
    assert "| –" in table([ratio])


def test_the_command_prints_the_table_and_writes_the_figures(
    ensemble: EmpathyEnsemble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ensemble.save(tmp_path / "empathy")
    lines = ITEMS.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "few.csv").write_text("".join(lines[:9]), encoding="utf-8")
    report = tmp_path / "report.json"
    options = ["--model", str(tmp_path / "empathy"), "--items", str(tmp_path / "few.csv"), "--json", str(report)]
    with pytest.raises(SystemExit) as status:
        run_command(command, NAME, options)
    assert status.value.code == 0
    assert "| senseless set phrase " in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert (found["posts"], found["members"]) == (8, 2)
    assert set(found["rows"][0]["figures"]) == {"encoders", "n-grams", "expected", "mean of members", "conservative"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,post\np1,I am tired.\n", "give a CSV file with the columns id, mechanism"),
        ("id,mechanism,post,response,phrase,paraphrase,senseless,fault\np1,joy,a,b,c,d,e,topic\n", "row 1"),
        ("id,mechanism,post,response,phrase,paraphrase,senseless,fault\n", "holds no rows"),
        (None, "cannot be read"),
    ],
)
def test_wrong_items_are_one_line(
    text: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "items.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as status:
        run_command(command, NAME, ["--model", str(tmp_path), "--items", str(path)])
    assert status.value.code == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
