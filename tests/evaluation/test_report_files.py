"""A made-up evaluation from rewrites to the written report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from partner_rl.evaluation.evaluate_systems import evaluate_systems
from partner_rl.evaluation.human_sheet import QUESTIONS, key_path, write_human_sheet
from partner_rl.evaluation.metric_definitions import METRICS
from partner_rl.evaluation.report_files import About, write_report
from partner_rl.evaluation.result import EvaluationResult
from partner_rl.evaluation.system import ORIGINAL, TEMPLATE
from partner_rl.evaluation.targets import TARGETS, MetricTarget, check_targets
from partner_rl.types import PartnerError
from tests.evaluation.toy import HarshJudge, made_up_pairs, made_up_systems, sources

PAIRS = made_up_pairs(28)


@pytest.fixture(scope="module")
def result() -> EvaluationResult:
    headline = np.array([number < 20 for number in range(28)])
    return evaluate_systems(
        made_up_systems(PAIRS), PAIRS, sources(HarshJudge()), headline_N=headline, reference=TEMPLATE, batch_size=5
    )


@pytest.fixture(scope="module")
def report(result, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "report"
    targets = {"rl": check_targets(result, "rl")}
    about = About("Evaluation of <toy>", {"runs": "toy"}, ["A remark."], targets, seconds={"scoring": 1.23456}, seed=3)
    write_report(folder, result, about)
    return folder


def test_every_metric_has_a_value_and_an_interval_around_it(result):
    for system in result.headline.systems:
        absent = {metric.key for metric in METRICS} - system.metrics.keys()
        nothing_written = {"distinct_sentences", "commonest_sentence", "listener_accuracy"}
        assert absent == (nothing_written if system.name == ORIGINAL else set())
        for key, estimate in system.metrics.items():
            assert estimate.interval is not None, key
            assert estimate.interval.low <= estimate.value + 1e-9, key
            assert estimate.interval.high >= estimate.value - 1e-9, key


def test_the_template_gains_by_repeating_itself(result):
    template = result.headline.system(TEMPLATE).metrics
    policy = result.headline.system("rl").metrics
    # Every original has one "sorry"; the template adds one, the policy adds a question and an "understand".
    assert template["change_in_empathy"].value == pytest.approx(1.0)
    assert policy["change_in_empathy"].value == pytest.approx(2.0)
    assert policy["judge_change"].value == pytest.approx(1.0)
    assert template["distinct_sentences"].value == pytest.approx(1 / 20)
    assert template["commonest_in_rewrites"].value == 1.0
    # It asks each seeker something else, in one candidate with the sentence that it says to all.
    assert policy["distinct_sentences"].value == pytest.approx(21 / 40)
    # 28 posts on 8 topics: its question names the topic, which others share; half of its sentences say nothing.
    assert template["listener_accuracy"].value < 0.15 < policy["listener_accuracy"].value < 0.5
    assert policy["self_bleu"].value < template["self_bleu"].value
    assert policy["perplexity_ratio"].value == pytest.approx(
        policy["perplexity"].value / result.headline.estimate(ORIGINAL, "perplexity").value
    )


def test_comparisons_are_with_the_reference_and_corrected(result):
    assert result.reference == TEMPLATE
    assert not result.headline.system(TEMPLATE).comparisons
    comparisons = result.headline.system("rl").comparisons
    assert comparisons["change_in_empathy"].difference.value == pytest.approx(1.0)
    assert comparisons["change_in_empathy"].p_holm < 0.01
    assert comparisons["distinct_2"].difference.value > 0
    assert comparisons["distinct_2"].difference.interval.low > 0
    assert comparisons["distinct_2"].p_holm < 0.01
    assert comparisons["specificity"].p_holm < 0.01
    for comparison in comparisons.values():
        assert comparison.p <= comparison.p_holm <= 1.0
    ratio = comparisons["perplexity"].difference.value
    expected = (
        result.headline.estimate("rl", "perplexity").value / result.headline.estimate(TEMPLATE, "perplexity").value
    )
    assert ratio == pytest.approx(expected)


def test_levels_are_labels_where_there_are_any_else_the_classifiers(result):
    # Unlabelled originals (every third) hold one "sorry": the classifier says 1.
    assert [int(level) for level in result.levels_N[:8]] == [1, 1, 2, 1, 4, 5, 1, 0]
    assert result.group("level_0").pairs == sum(n % 7 == 0 and n % 3 != 0 for n in range(28))
    assert result.group("level_4-6").pairs == sum(n % 7 in (4, 5, 6) and n % 3 != 0 for n in range(28))
    assert sum(result.group(f"level_{level}").pairs for level in range(7)) == 28
    assert result.group("level_0").estimate("rl", "change_in_empathy").value == pytest.approx(2.0)
    assert result.group("level_4-6").estimate("rl", "made_worse").value == 0.0
    assert result.group("level_4-6").estimate("rl", "made_worse").interval.high > 0.1


def test_targets_are_reached_missed_or_not_measured(result):
    outcomes = {(found.target.text, found.target.of_system): found for found in check_targets(result, "rl")}
    assert len(outcomes) == len(TARGETS)
    assert outcomes["change in empathy", None].outcome == "reached"
    assert outcomes["change in empathy by the held-out judge", None].outcome == "missed"
    assert outcomes["emotional reactions, change", None].outcome == "missed"
    assert outcomes["gain of responses at level 0", None].outcome == "reached"
    assert outcomes["specificity above the template's", TEMPLATE].outcome == "reached"
    worse = outcomes["responses at level 4 and above made worse", None]
    assert (worse.outcome, worse.certain) == ("reached", False)
    (absent,) = check_targets(result, "rl", [MetricTarget("x", "specificity", ">", 1.0, of_system="nobody")])
    assert absent.outcome == "not measured"
    (unmeasured,) = check_targets(
        replace(result, groups=()), "rl", [MetricTarget("x", "length", "≤", 1.0, group="level_0")]
    )
    assert (unmeasured.outcome, unmeasured.pairs) == ("not measured", 0)


def test_the_report_holds_tables_and_figures(report, result):
    markdown = (report / "report.md").read_text()
    assert "| change in empathy ↑ |" in markdown
    assert "change in empathy by the held-out judge | ≥ +1.200 |" in markdown
    assert "> A remark." in markdown
    for picture in ("metrics.png", "adaptability.png", "trade_off.png", "histogram.png"):
        assert f"](figures/{picture})" in markdown
        assert (report / "figures" / picture).read_bytes().startswith(b"\x89PNG")
    page = (report / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "Evaluation of &lt;toy&gt;" in page
    assert "<script" not in page
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_the_json_holds_every_metric_with_its_interval(report):
    content = json.loads((report / "report.json").read_text())
    assert list(content["systems"]) == [ORIGINAL, TEMPLATE, "rl"]
    estimate = content["systems"]["rl"]["metrics"]["distinct_2"]
    assert estimate["low"] < estimate["value"] < estimate["high"]
    assert content["systems"]["rl"]["comparisons"]["self_bleu"]["p_holm"] < 0.05
    assert content["by_original_empathy"]["level_0"]["systems"]["rl"]["change_in_empathy"]["value"] == 2.0
    assert content["pairs"] == {
        "all": 28,
        "main_table": 20,
        "labelled": 18,
        "by_level": {"0": 2, "1": 13, "2": 3, "3": 2, "4": 3, "5": 3, "6": 2},
    }
    assert content["targets"]["rl"][0]["outcome"] == "reached"
    assert {"seed", "versions", "device", "seconds", "metrics", "reference"} <= content.keys()


def test_posts_are_written_only_when_asked_for(report, result, tmp_path):
    table = pq.read_table(report / "pairs.parquet")
    assert table.num_rows == 3 * 28
    assert {"seeker_id", "response_id", "rewritten_response", "change_in_empathy", "judge_change"} <= set(
        table.column_names
    )
    assert not {"seeker_post", "response_post"} & set(table.column_names)
    post = PAIRS[0].seeker_post
    texts = [(report / name).read_text() for name in ("report.md", "report.html", "report.json")]
    assert not any(post in text for text in texts)
    write_report(tmp_path, result, About("With posts", {}, with_posts=True))
    assert pq.read_table(tmp_path / "pairs.parquet")["seeker_post"][0].as_py() == post
    assert post in (tmp_path / "report.html").read_text()


def test_systems_must_share_the_pairs():
    systems = made_up_systems(PAIRS[:4])
    with pytest.raises(PartnerError, match="did not rewrite the pairs"):
        evaluate_systems(systems, PAIRS[1:5], sources())
    with pytest.raises(PartnerError, match="needs the system 'original'"):
        evaluate_systems(systems[1:], PAIRS[:4], sources())
    with pytest.raises(PartnerError, match="no system 'nobody' to compare"):
        evaluate_systems(systems, PAIRS[:4], sources(), reference="nobody")


def test_one_pair_and_one_system_are_enough(tmp_path):
    result = evaluate_systems(made_up_systems(PAIRS[:1])[:1], PAIRS[:1], sources())
    assert result.headline.estimate(ORIGINAL, "edit_rate").interval is None
    write_report(tmp_path, result, About("One", {}))
    assert (tmp_path / "report.md").is_file()


def test_a_sheet_for_raters_does_not_say_whose_rewrite_is_which(result, tmp_path):
    sheet = tmp_path / "sheet.csv"
    count = write_human_sheet(sheet, result, [(ORIGINAL, "rl"), (TEMPLATE, "rl")], pairs_each=10, seed=0)
    items = list(csv.DictReader(sheet.open()))
    keys = list(csv.DictReader(key_path(sheet).open()))
    assert count == len(items) == len(keys) == 20
    assert set(items[0]) == {"item", "seeker_post", "A", "B", *QUESTIONS}
    rewrites = {scores.name: dict(zip(PAIRS, scores.rewrites, strict=True)) for scores in result.scores}
    by_id = {pair.response_id: pair for pair in PAIRS}
    for item, key in zip(items, keys, strict=True):
        pair = by_id[key["response_id"]]
        assert item["seeker_post"] == pair.seeker_post
        assert item["A"] == rewrites[key["A"]][pair]
        assert item["B"] == rewrites[key["B"]][pair]
    assert 4 <= sum(key["A"] == "rl" for key in keys) <= 16
    with pytest.raises(PartnerError, match="no system nobody"):
        write_human_sheet(sheet, result, [("nobody", "rl")], 5, seed=0)
