"""The held-out judge: its features, its regressions, its folder, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from launch import cli
from partner_rl.evaluation.judge import Judge, load_judge
from partner_rl.evaluation.judge.head import expected_levels, fit_head, log_loss
from partner_rl.evaluation.judge.scores import rank_correlation
from partner_rl.evaluation.judge.states import ResponseStates, candidate_layers, layer_columns
from partner_rl.evaluation.judge.training import JudgeReport, LayerChoice, choose_layers, train_judge
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.storage.artefact import MARK
from partner_rl.types import MECHANISMS, NUM_LEVELS, Example, MechanismLabel, PartnerError

LLAMA = "random:llama"
WORDS = ("walk", "tea", "books", "sleep", "rain", "work", "music", "food", "friends", "buses")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def states(name: str, layers: tuple[int, ...], **limits: int) -> ResponseStates:
    folder = resolve(name)
    return ResponseStates(load_causal_lm(folder), load_tokenizer(folder), layers, **limits)


def toy_examples(count: int, prefix: str) -> list[Example]:
    """Pairs whose levels can be told from set phrases of the response."""
    examples = []
    for i in range(count):
        emotional, interpreting, exploring = i % 3, (i // 3) % 3, (i // 9) % 3
        phrases = [
            ("Eat well.", "That is sad.", "I am so so sorry to hear this.")[emotional],
            ("Buy one.", "It sounds hard.", "I have been there too and I know how heavy it is.")[interpreting],
            ("Go on.", "How come?", "What happened today? How are you feeling at the moment?")[exploring],
        ]
        word = WORDS[(7 * i + len(prefix)) % len(WORDS)]
        labels = tuple(MechanismLabel(level) for level in (emotional, interpreting, exploring))
        examples.append(
            Example(f"{prefix}{i}", f"r{i}", f"I am tired of {word}.", " ".join([*phrases, f"{word}."]), labels)
        )
    return examples


@pytest.fixture(scope="module")
def trained() -> tuple[Judge, JudgeReport, list[tuple[int, int]]]:
    """A judge of the toy pairs, what is said of it, and the progress that was reported."""
    steps: list[tuple[int, int]] = []
    splits = (toy_examples(162, "train"), toy_examples(54, "dev"), toy_examples(81, "test"))
    judge, report = train_judge(
        splits, resolve(LLAMA), LLAMA, 0, progress=lambda done, total: steps.append((done, total))
    )
    return judge, report, steps


@pytest.mark.parametrize("name", [LLAMA, "random:gpt2"])
def test_features_are_mean_hidden_states_of_the_response(name: str) -> None:
    folder = resolve(name)
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    pair = ("I failed the exam again.", "I am so sorry. What happened?")
    found = states(name, (1,)).means([pair])[0]
    before = tokenizer("User:", add_special_tokens=False)["input_ids"]
    before += tokenizer(f" {pair[0]}", add_special_tokens=False)["input_ids"]
    before += tokenizer("\nReply:", add_special_tokens=False)["input_ids"]
    start = tokenizer.get_vocab().get("<|endoftext|>", tokenizer.bos_token_id)
    response = tokenizer(f" {pair[1]}", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        hidden = model(input_ids=torch.tensor([[start, *before, *response]]), output_hidden_states=True).hidden_states[
            1
        ]
    expected = hidden[0, 1 + len(before) :].double().mean(0).numpy()
    assert len(response) == len(hidden[0]) - 1 - len(before)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", [LLAMA, "random:gpt2"])
def test_features_do_not_depend_on_the_batch(name: str) -> None:
    reader = states(name, (1, 2))
    pairs = [("I am sad. " * (1 + i % 5), "What happened to you? " * (1 + (3 * i) % 11)) for i in range(40)]
    together = reader.means([*pairs, *pairs[::-1]])
    alone = np.concatenate([reader.means([pair]) for pair in pairs])
    assert np.ptp(alone, axis=0).max() > 0.1
    np.testing.assert_allclose(together, np.concatenate([alone, alone[::-1]]), atol=1e-4)


def test_posts_are_cut_and_odd_ones_have_features() -> None:
    reader = states(LLAMA, (2,), seeker_tokens=5, response_tokens=6)
    long = ("I am so tired of my job and my friends", "You could try to go for a walk today")
    longer = (long[0] + " and of everything", long[1] + " and write it down")
    other = (long[0], "You should try to go for a walk today")
    features = reader.means([long, longer, other, ("", ""), ("😭", "🙂")])
    np.testing.assert_allclose(features[0], features[1], atol=1e-6)
    assert np.abs(features[0] - features[2]).max() > 1e-3
    assert np.isfinite(features).all()
    assert reader.cut([long, ("a", "b")]) == 0.5
    assert reader.means([]).shape == (0, reader.hidden_size)


def test_a_layer_that_is_not_there_is_an_error() -> None:
    with pytest.raises(PartnerError, match="reads layers"):
        states(LLAMA, (1, 3))


def test_layers_to_try_and_their_columns() -> None:
    assert candidate_layers(30) == ((15,), (23,), (15, 30))
    assert candidate_layers(1) == ((1,),)
    assert layer_columns((15, 23, 30), (15, 30), 2) == [0, 1, 4, 5]


def test_the_cheapest_layers_win_unless_others_are_clearly_better() -> None:
    cheap, deep = LayerChoice((15,), (1.0,), 0.505), LayerChoice((15, 30), (1.0,), 0.5)
    assert choose_layers([cheap, deep]) is cheap
    better = LayerChoice((15, 30), (1.0,), 0.49)
    assert choose_layers([cheap, better]) is better


def test_probabilities_are_those_of_scikit_learn_for_three_two_and_one_levels() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    features = rng.normal(3.0, 5.0, (90, 4))
    levels = np.stack(
        [np.digitize(features[:, 0], [1, 5]), 2 * (features[:, 1] > 3).astype(int), np.full(90, 1)], axis=1
    )
    head = fit_head(features, levels, [0.1, 1.0, 1.0])
    found = head.probabilities(features)
    standard = StandardScaler().fit_transform(features)
    three = LogisticRegression(C=0.1, max_iter=500).fit(standard, levels[:, 0]).predict_proba(standard)
    two = LogisticRegression(C=1.0, max_iter=500).fit(standard, levels[:, 1]).predict_proba(standard)
    np.testing.assert_allclose(found[:, 0], three, atol=1e-6)
    np.testing.assert_allclose(found[:, 1][:, [0, 2]], two, atol=1e-6)
    assert found[:, 1, 1].max() < 1e-9
    np.testing.assert_allclose(found[:, 2], np.tile([0.0, 1.0, 0.0], (90, 1)), atol=1e-9)
    # Not balanced: the mean expected level is that of the labels (a property of the intercepts' optimum).
    np.testing.assert_allclose(expected_levels(found).mean(axis=0), levels.mean(axis=0), atol=1e-3)


def test_expected_levels_and_log_loss_in_closed_form() -> None:
    probabilities = np.array([[[0.2, 0.3, 0.5]] * 3, [[1.0, 0.0, 0.0]] * 3])
    np.testing.assert_allclose(expected_levels(probabilities), [[1.3] * 3, [0.0] * 3])
    losses = log_loss(probabilities, np.array([[0, 1, 2], [0, 0, 0]]))
    np.testing.assert_allclose(losses, -np.log([0.2, 0.3, 0.5]) / 2)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([0.0, 5.0, 6.0])) == pytest.approx(1.0)
    assert rank_correlation(np.ones(3), np.array([0.0, 5.0, 6.0])) == 0.0


def test_the_judge_beats_the_commonest_level_on_separable_text(
    trained: tuple[Judge, JudgeReport, list[tuple[int, int]]],
) -> None:
    judge, report, steps = trained
    assert steps[-1][0] == steps[-1][1] > 0
    assert (report.train_pairs, report.dev_pairs, report.test_pairs) == (162, 54, 81)
    for scores in report.test.values():
        assert scores.levels.accuracy > scores.majority.accuracy + 0.2
        assert scores.levels.macro_f1 > scores.majority.macro_f1 + 0.3
        assert scores.spearman > 0.6
        assert abs(scores.mean_expected - scores.mean_label) < 0.2
    pairs = [(e.seeker_post, e.response_post) for e in toy_examples(27, "new")]
    levels, labels = judge.levels(pairs), np.array([[m.level for m in e.labels or ()] for e in toy_examples(27, "new")])
    assert levels.shape == (27, len(MECHANISMS))
    assert levels.min() >= 0.0
    assert levels.max() <= NUM_LEVELS - 1
    assert np.abs(levels - labels).mean() < 0.5
    np.testing.assert_allclose(judge.probabilities(pairs).sum(axis=-1), 1.0)


def test_levels_survive_saving_and_do_not_depend_on_the_batch(
    trained: tuple[Judge, JudgeReport, list[tuple[int, int]]], tmp_path: Path
) -> None:
    judge, _, _ = trained
    pairs = [(e.seeker_post, e.response_post * (1 + i % 4)) for i, e in enumerate(toy_examples(20, "any"))]
    judge.save(tmp_path / "judge")
    loaded = load_judge(tmp_path / "judge")
    np.testing.assert_allclose(loaded.levels(pairs), judge.levels(pairs), atol=1e-6)
    alone = np.concatenate([loaded.levels([pair]) for pair in pairs])
    np.testing.assert_allclose(loaded.levels(pairs), alone, atol=1e-4)


def test_a_folder_that_is_no_whole_judge_is_an_error(
    trained: tuple[Judge, JudgeReport, list[tuple[int, int]]], tmp_path: Path
) -> None:
    folder = tmp_path / "judge"
    with pytest.raises(PartnerError, match="no judge in"):
        load_judge(folder)
    trained[0].save(folder)
    metadata = json.loads((folder / MARK).read_text())
    (folder / MARK).write_text(json.dumps(metadata | {"language_model": "random:gpt2"}))
    with pytest.raises(PartnerError, match=r"does not fit|trained on another"):
        load_judge(folder)
    (folder / MARK).write_text(json.dumps(metadata | {"probe": [9.0, 9.0, 9.0]}))
    with pytest.raises(PartnerError, match="trained on another"):
        load_judge(folder)
    (folder / MARK).write_text(json.dumps(metadata | {"kind": "topic"}))
    with pytest.raises(PartnerError, match="'topic'"):
        load_judge(folder)
    (folder / MARK).write_text(json.dumps(metadata))
    (folder / "head.safetensors").write_bytes(b"x" * 64)
    with pytest.raises(PartnerError, match="damaged"):
        load_judge(folder)


def test_unlabelled_pairs_are_refused() -> None:
    unlabelled = [Example("s", "r", "I am sad.", "Go out.")]
    with pytest.raises(PartnerError, match="no dev pair is labelled"):
        train_judge((toy_examples(3, "t"), unlabelled, toy_examples(3, "x")), resolve(LLAMA), LLAMA, 0)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["judge", *arguments])
    return int(exit_.value.code or 0)


def test_the_commands_train_a_judge_and_score_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--preset", "smoke", "resources.driver_threads=1", "device=cpu"]
    folder, pairs, scores = tmp_path / "judge", tmp_path / "pairs.jsonl", tmp_path / "out" / "levels.jsonl"
    assert run("train", "--data", "sample", "--output", str(folder), *tiny, "data.max_train_pairs=60") == 0
    assert "| explorations | " in capsys.readouterr().out
    card, report = (folder / "README.md").read_text(), json.loads((folder / "report.json").read_text())
    assert report["train_pairs"] == 60
    assert f"{report['test']['explorations']['levels']['accuracy']:.3f} (" in card
    assert str(tmp_path) not in card

    rows = [
        {"seeker_post": "I am sad.", "response_post": "Go out.", "rewritten_response": "I am sorry. Go out."},
        {"seeker_post": 7, "response_post": "What?"},
        {"seeker_post": "I cannot sleep.", "response_post": "Why?"},
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("score", "--model", str(folder), "--input", str(pairs), "--output", str(scores), *tiny) == 0
    assert "2 of 3 rows judged, 1 with an error" in capsys.readouterr().out
    first, broken, last = (json.loads(line) for line in scores.read_text().splitlines())
    levels = load_judge(folder).levels([("I am sad.", "Go out."), ("I am sad.", "I am sorry. Go out.")])
    assert [first["response"][name] for name in MECHANISMS] == pytest.approx(levels[0], abs=1e-3)
    assert [first["rewritten"][name] for name in MECHANISMS] == pytest.approx(levels[1], abs=1e-3)
    assert first["change"]["total"] == pytest.approx((levels[1] - levels[0]).sum(), abs=1e-3)
    assert broken["row"] == 2
    assert "error" in broken
    assert "rewritten" not in last
    assert [path.name for path in scores.parent.iterdir()] == ["levels.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["score", "--model", "nowhere", "--input", "a.csv", "--output", "b.jsonl"], "no judge in nowhere"),
        (["train", "--data", "nowhere.csv", "--output", "j", "--preset", "smoke"], "nowhere.csv"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert expected in line
    assert list(tmp_path.iterdir()) == []
