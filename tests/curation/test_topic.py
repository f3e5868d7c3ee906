"""The everyday posts, and the classifier that tells them from posts about mental health."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score
from typer.testing import CliRunner

import launch.commands.data.app
from partner_rl.curation.everyday_posts import read_everyday_posts
from partner_rl.curation.topic import HEAD, REPORT, TopicFilter, train_topic
from partner_rl.curation.topic_report import calibration_error, topic_scores
from partner_rl.data.readers import read_examples
from partner_rl.models.sources import resolve
from partner_rl.storage.artefact import MARK
from partner_rl.types import PartnerError

LIGHT = [f"my {pet} stole {count} {food} from the {place}" for pet in ("cat", "dog", "hen") for count in (2, 3, 4, 5)
         for food in ("buns", "pies") for place in ("shop", "van", "shed")]  # fmt: skip
HEAVY = [f"I feel {mood} and {trouble} since {time}" for mood in ("hopeless", "empty", "numb") for time in
         ("winter", "March", "the move", "then") for trouble in
         ("nobody calls", "I cry at night", "I can not sleep", "all of it hurts", "nothing helps")]  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return resolve("random:bert", tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def trained(bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("topic") / "classifier"
    report = train_topic(HEAVY, LIGHT, bert, folder, hard=LIGHT[::3])
    return folder, report


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def test_everyday_posts_are_many_varied_and_often_hard():
    posts = read_everyday_posts()
    assert len(posts) >= 500
    assert sum(post.is_hard for post in posts) >= 150
    assert len({post.kind for post in posts if not post.is_hard}) >= 20
    lengths = [len(post.text.split()) for post in posts]
    assert min(lengths) >= 8
    assert max(lengths) <= 90
    assert np.std(lengths) > 10


def test_no_two_everyday_posts_share_six_words_in_a_row():
    shared: Counter[tuple[str, ...]] = Counter()
    for post in read_everyday_posts():
        tokens = words(post.text)
        shared.update({tuple(tokens[i : i + 6]) for i in range(len(tokens) - 5)})
    assert max(shared.values()) == 1


def test_everyday_posts_hold_no_address_of_any_kind():
    for post in read_everyday_posts():
        assert not re.search(r"@|https?:|www\.|\b\d{6,}\b|\bu/\w", post.text)


def test_it_learns_to_tell_two_kinds_of_posts_apart(trained):
    _, report = trained
    assert report.held_out.auc.value > 0.95
    assert report.held_out.f1.value > 0.9
    assert report.train_positives + report.held_out.positives == len(HEAVY)
    assert report.train_negatives + report.held_out.negatives == len(LIGHT)
    assert 0.1 < report.held_out.positives / len(HEAVY) < 0.4
    assert 0 < report.hard.negatives < report.held_out.negatives
    assert report.hard.positives == report.held_out.positives
    assert report.other is None


def test_labels_without_a_pattern_are_not_learned(bert, tmp_path):
    posts = [[*HEAVY, *LIGHT][index] for index in np.random.default_rng(0).permutation(len(HEAVY) + len(LIGHT))]
    report = train_topic(posts[::2], posts[1::2], bert, tmp_path / "topic")
    assert report.held_out.auc.value < 0.8


def test_a_loaded_classifier_gives_the_probabilities_that_were_reported(trained):
    folder, report = trained
    topic = TopicFilter.load(folder)
    probabilities = topic.probabilities([*HEAVY, *LIGHT])
    kept = probabilities >= topic.threshold
    # All posts hold the held-out ones, so that their errors are among all errors.
    assert (~kept[: len(HEAVY)]).sum() >= report.held_out.confusion.false_negatives
    assert kept[: len(HEAVY)].mean() > 0.9
    assert kept[len(HEAVY) :].mean() < 0.1
    assert json.loads((folder / REPORT).read_text())["held_out"]["auc"]["value"] == report.held_out.auc.value


def test_a_probability_depends_neither_on_the_batch_nor_on_padding(trained):
    topic = TopicFilter.load(trained[0])
    posts = ["", "ok", "🙂🙂🙂", HEAVY[0], LIGHT[0], "I am tired. " * 400, *(f"{LIGHT[7]} " * n for n in range(1, 60))]
    together = topic.probabilities(posts)
    alone = np.concatenate([topic.probabilities([post]) for post in posts])
    backwards = topic.probabilities(posts[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-4)
    np.testing.assert_allclose(together, backwards, atol=1e-4)
    assert together.std() > 0.01
    assert topic.probabilities([]).shape == (0,)


def test_the_seed_changes_no_split_and_the_same_seed_nothing_at_all(bert, trained, tmp_path):
    _, report = trained
    again = train_topic(HEAVY, LIGHT, bert, tmp_path / "again", hard=LIGHT[::3])
    assert again == report
    other = train_topic(HEAVY[::-1], LIGHT[::-1], bert, tmp_path / "other", seed=5, hard=LIGHT[::3])
    assert other.held_out.positives == report.held_out.positives
    assert other.held_out.negatives == report.held_out.negatives


def test_copies_count_once_and_never_stand_on_both_sides(bert, trained, tmp_path):
    doubled = [*HEAVY, *(f"  {post.upper()}\n" for post in HEAVY)]
    report = train_topic(doubled, LIGHT, bert, tmp_path / "topic", hard=LIGHT[::3])
    assert replace(report, encoder="") == replace(trained[1], encoder="")


def test_posts_to_judge_apart_are_never_those_trained_on(bert, trained, tmp_path):
    unseen = [f"lately {post}" for post in HEAVY[:20]]
    report = train_topic(HEAVY, LIGHT, bert, tmp_path / "topic", other_positives=[*unseen, *HEAVY])
    assert report.other.positives == len(unseen) + report.held_out.positives
    assert report.train_positives == trained[1].train_positives
    # The other posts change the batches, and so the last digits of the probabilities.
    assert report.held_out.confusion == trained[1].held_out.confusion
    assert report.held_out.auc == trained[1].held_out.auc


def test_progress_counts_every_post(bert, tmp_path):
    seen: list[tuple[int, int]] = []
    train_topic(HEAVY, LIGHT, bert, tmp_path / "topic", progress=lambda done, total: seen.append((done, total)))
    total = len(HEAVY) + len(LIGHT)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_figures_agree_with_scikit_learn():
    random = np.random.default_rng(0)
    positives, negatives = random.beta(3, 2, 60).round(2), random.beta(2, 3, 90).round(2)
    scores = topic_scores(positives, negatives, 0.5, seed=0)
    labels = np.repeat([1, 0], [60, 90])
    probabilities = np.concatenate([positives, negatives])
    kept = probabilities >= 0.5
    assert scores.precision.value == pytest.approx(precision_score(labels, kept))
    assert scores.recall.value == pytest.approx(recall_score(labels, kept))
    assert scores.f1.value == pytest.approx(f1_score(labels, kept))
    assert scores.specificity.value == pytest.approx(recall_score(labels, kept, pos_label=0))
    assert scores.auc.value == pytest.approx(roc_auc_score(labels, probabilities))
    counts = scores.confusion
    assert (counts.true_positives, counts.false_positives) == (kept[:60].sum(), kept[60:].sum())
    assert (counts.false_negatives, counts.true_negatives) == ((~kept[:60]).sum(), (~kept[60:]).sum())
    for figure in (scores.precision, scores.recall, scores.f1, scores.specificity, scores.auc):
        assert figure.low < figure.value < figure.high


def test_an_interval_is_as_wide_as_a_share_of_so_many_posts_makes_it():
    positives = np.repeat([0.9, 0.1], [80, 20])
    recall = topic_scores(positives, np.full(50, 0.1), 0.5, seed=1).recall
    half = 1.96 * (0.8 * 0.2 / 100) ** 0.5
    assert recall.low == pytest.approx(0.8 - half, abs=0.02)
    assert recall.high == pytest.approx(0.8 + half, abs=0.02)


def test_calibration_error_of_known_cases():
    assert calibration_error(np.full(10, 0.5), np.full(70, 0.5)) == pytest.approx(0)
    assert calibration_error(np.full(10, 1.0), np.full(70, 0.0)) == pytest.approx(0)
    assert calibration_error(np.full(10, 0.0), np.full(70, 1.0)) == pytest.approx(1)


def test_nothing_kept_has_precision_zero_and_not_a_crash():
    scores = topic_scores(np.full(5, 0.1), np.full(5, 0.1), 0.5, seed=0)
    assert (scores.precision.value, scores.f1.value, scores.auc.value) == (0, 0, 0.5)


@pytest.mark.parametrize(
    ("positives", "negatives", "message"),
    [
        (HEAVY[:5], LIGHT, "5 different posts about mental health are too few"),
        (HEAVY, LIGHT[:5] * 30, "5 different posts of everyday life are too few"),
        (HEAVY, [*LIGHT, HEAVY[3].upper()], "1 posts are both positives and negatives"),
    ],
)
def test_unusable_posts_are_one_line_that_shows_none_of_them(bert, tmp_path, positives, negatives, message):
    with pytest.raises(PartnerError, match=message) as caught:
        train_topic(positives, negatives, bert, tmp_path / "topic")
    assert "feel" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_not_replaced(bert, trained, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(PartnerError, match=r"holds something else \(thesis.txt\): name a new folder"):
        train_topic(HEAVY, LIGHT, bert, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    with pytest.raises(PartnerError, match="Not a directory"):
        train_topic(HEAVY, LIGHT, bert, tmp_path / "thesis.txt")


def test_a_classifier_replaces_an_older_one_and_leaves_nothing_beside_it(bert, tmp_path):
    train_topic(HEAVY, LIGHT, bert, tmp_path / "topic")
    train_topic(HEAVY, LIGHT, bert, tmp_path / "topic", seed=3)
    assert json.loads((tmp_path / "topic" / REPORT).read_text())["seed"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["topic"]


def test_damaged_folders_are_one_line(bert, tmp_path):
    with pytest.raises(PartnerError, match="no topic classifier in"):
        TopicFilter.load(tmp_path)
    folder = tmp_path / "topic"
    train_topic(HEAVY, LIGHT, bert, folder)
    whole = (folder / HEAD).read_bytes()
    (folder / HEAD).write_bytes(whole[:-9])
    with pytest.raises(PartnerError, match=r"head.safetensors is missing or damaged: train it again"):
        TopicFilter.load(folder)
    (folder / HEAD).write_bytes(whole)
    settings = (folder / MARK).read_text()
    (folder / MARK).write_text(settings.replace('"kind": "topic"', '"kind": "empathy"'))
    with pytest.raises(PartnerError, match="holds a 'empathy'"):
        TopicFilter.load(folder)
    (folder / MARK).write_text(settings[:20])
    with pytest.raises(PartnerError, match=r"partner_rl.json is damaged"):
        TopicFilter.load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,body\n1,hello there\n", "the header must name one column text"),
        ("text\n", "holds no posts"),
        ('text,kind\n"fine",food\n"",food\n', "line 3: text is empty"),
        ("text,kind\nfine,food,more\n", "line 2: 3 columns instead of 2"),
    ],
)
def test_a_bad_file_of_everyday_posts_is_one_line(tmp_path, content, message):
    (tmp_path / "posts.csv").write_text(content)
    with pytest.raises(PartnerError, match=message):
        read_everyday_posts(tmp_path / "posts.csv")


def test_the_command_trains_on_the_sample_and_says_so(tmp_path):
    output = tmp_path / "topic"
    arguments = ["train-topic", "--positives", "sample", "--output", str(output), "--encoder", "random:bert"]
    result = CliRunner().invoke(launch.commands.data.app.app, [*arguments, "--also-test", "sample"])
    assert result.exit_code == 0, result.output
    assert "hard negatives" in result.output
    assert "other source" in result.output
    report = json.loads((output / REPORT).read_text())
    seekers = {example.seeker_post for example in read_examples("sample").examples}
    assert report["train_positives"] + report["held_out"]["positives"] == len(seekers)
    assert report["other"]["positives"] == report["held_out"]["positives"]
    assert not set(words(result.output)) & {"boiler", "scarecrow", "yoghurts"}
    assert TopicFilter.load(output).probabilities(["hello"]).shape == (1,)
