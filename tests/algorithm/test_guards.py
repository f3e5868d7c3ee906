"""The guards: each figure in closed form, each alarm on a made-up collapse, silence on a healthy run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partner_rl.algorithm.guard_figures import GuardFigures, JudgedGain, guard_figures, words_of
from partner_rl.algorithm.guards import LIMITS, Guards, divergence, judged_values, window_values
from partner_rl.algorithm.kl_control import KlController
from partner_rl.config.schema import GuardsConfig
from partner_rl.types import ScoreRequest
from tests.algorithm.toy import build_toy, toy_config

NOUNS = [f"{a}{b}" for a in ("exam", "job", "cat", "night", "friend", "doctor") for b in ("", "s", "ing", "er", "ed")]


def request(original: str, *sentences: str) -> ScoreRequest:
    return ScoreRequest("I am sad.", original, " ".join([*sentences, original]), sentences, (original,))


def healthy(iteration: int, judged: JudgedGain | None = None) -> GuardFigures:
    """Twelve different sentences, one response left alone."""
    rng = np.random.default_rng(iteration)
    requests = [request("Go out and take a walk in the sun.", _sentence(rng)) for _ in range(12)]
    return guard_figures([*requests, request("Be strong.")], 0.2 + 0.01 * iteration, 1.5, judged)


def _sentence(rng: np.random.Generator) -> str:
    words = [f"{rng.choice(NOUNS)}{rng.integers(4)}" for _ in range(6)]
    return f"So your {' '.join(words)}?"


def judged(reward: float, judge: float) -> JudgedGain:
    return JudgedGain(judge, reward, 0.5)


def test_counts_of_an_iteration_in_closed_form() -> None:
    requests = [
        request("Go out now.", "I am sorry, I am sorry, I am sorry."),
        request("Go out now.", "What happened?"),
        request("Go out now.", "what HAPPENED"),
        request("Go out now."),
    ]
    found = guard_figures(requests, 0.3, 1.2)
    assert (found.episodes, found.unchanged) == (4, 1)
    assert (found.words_original, found.words_rewritten) == (12, 12 + 9 + 2 + 2)
    # I am sorry I am sorry I am sorry: 7 triples, 3 different.
    assert (found.triples, found.repeated_triples) == (7, 4)
    # 8 + 1 + 1 pairs; "i am", "am sorry", "sorry i", "what happened" are different.
    assert (found.pairs, len(found.pair_hashes)) == (10, 4)
    assert sorted(found.sentences.values()) == [1, 2]


def test_words_ignore_case_and_punctuation() -> None:
    assert words_of("Don’t — GO, it's 5!") == ("don’t", "go", "it's", "5")
    assert words_of("🙂 …") == ()


def test_figures_of_a_window_in_closed_form() -> None:
    first = guard_figures([request("Go out.", "You are right.")] * 3, 0.2, 1.0)
    second = guard_figures([request("Go out.", "Are you sure?"), request("Go out.")], 0.4, 2.0)
    found = window_values([first, second], min_rewrites=4)
    assert found == pytest.approx(
        {
            "noop_share": 1 / 5,
            "self_disclosure": 0.0,
            "length_ratio": (10 + 12) / 10,
            "repetition": 0.0,
            "position_entropy": 1.5,
            "kl": 0.3,
            # "you are" ×3, "are right" ×3, "are you", "you sure".
            "distinct_2": 4 / 8,
            "common_share": 1.0,
        }
    )
    few = window_values([first, second], min_rewrites=5)
    assert "distinct_2" not in few
    assert "common_share" not in few
    assert "kl" not in window_values([replace(first, kl=None)], 1)
    assert "repetition" not in window_values([guard_figures([request("Go out.")], 0.0, 1.0)], 1)


def test_the_twenty_commonest_sentences_count() -> None:
    requests = [request("Go.", f"Sentence number {i}.") for i in range(40) for _ in range(3 if i < 10 else 1)]
    # 10 sentences three times and 30 once: the 20 commonest are 30 + 10 of 60.
    assert window_values([guard_figures(requests, None, 1.0)], 1)["common_share"] == pytest.approx(40 / 60)


def test_gains_by_reward_and_judge_in_closed_form() -> None:
    gains = [JudgedGain(1.0, 1.5, 0.8), JudgedGain(0.5, 2.0, None), JudgedGain(0.0, 2.5, 0.4)]
    assert judged_values(gains) == pytest.approx(
        {"judge_gain": 0.5, "reward_gain": 2.0, "judge_gap": 1.5, "judge_correlation": 0.6}
    )
    assert judged_values([JudgedGain(1.0, None, None)]) == {"judge_gain": 1.0}
    assert judged_values([]) == {}


def test_divergence_is_above_zero_only_when_reward_and_judge_part() -> None:
    assert divergence([(1.0, 1.0), (1.2, 0.8), (1.6, 0.4), (2.0, 0.2)]) == pytest.approx(0.6)
    assert divergence([(1.0, 1.0), (1.0, 1.0), (9.0, 9.0), (1.5, 0.8), (1.5, 0.8)]) == pytest.approx(0.2)
    assert divergence([(1.0, 1.0), (1.0, 1.0), (2.0, 2.0), (2.0, 2.0)]) < 0
    assert divergence([(1.0, 1.0), (1.0, 1.0), (0.5, 0.5), (0.5, 0.5)]) < 0


def test_a_healthy_run_raises_no_alarm_with_the_default_limits() -> None:
    guards = Guards(GuardsConfig())
    for iteration in range(40):
        gain = judged(1.2 + 0.01 * iteration, 0.8 + 0.01 * iteration) if iteration % 3 == 0 else None
        assert guards.check(healthy(iteration, gain)) == ()
        assert not guards.in_streak
    watched = {guard.name for guard in LIMITS}
    assert watched <= guards.values.keys()


def _one_for_all(iteration: int) -> GuardFigures:
    return guard_figures([request("Go out and take a walk.", "I am so sorry to hear that.")] * 12, 0.2, 1.5)


def _stutter(iteration: int) -> GuardFigures:
    return guard_figures(
        [request("Go out and walk.", f"I feel {noun} so much I feel {noun} so much.") for noun in NOUNS], 0.2, 1.5
    )


def _long(iteration: int) -> GuardFigures:
    rng = np.random.default_rng(iteration)
    return guard_figures([request("Go out.", *(_sentence(rng) for _ in range(3))) for _ in range(12)], 0.2, 1.5)


def _me_too(iteration: int) -> GuardFigures:
    return guard_figures([request("Go out.", f"I had the same with my {noun}.") for noun in NOUNS], 0.2, 1.5)


COLLAPSES = {
    "kl": lambda i: replace(healthy(i), kl=3.0),
    "length_ratio": _long,
    "repetition": _stutter,
    "distinct_2": _one_for_all,
    "common_share": _one_for_all,
    "self_disclosure": _me_too,
    "noop_share": lambda i: guard_figures([request("Go out.")] * 12, 0.2, 1.5),
    "position_entropy": lambda i: replace(healthy(i), position_entropy=0.001),
    "judge_gap": lambda i: healthy(i, judged(2.5, 0.2)),
    "judge_divergence": lambda i: healthy(i, judged(1.0 + 0.1 * i, 1.0 - 0.1 * i)),
}


def test_every_guard_has_its_collapse() -> None:
    assert COLLAPSES.keys() == {guard.name for guard in LIMITS}


@pytest.mark.parametrize("name", COLLAPSES)
def test_each_guard_fires_on_its_collapse_and_null_turns_it_off(name: str) -> None:
    (key,) = [guard.key for guard in LIMITS if guard.name == name]
    guards, off = Guards(GuardsConfig()), Guards(GuardsConfig(**{key: None}))
    for iteration in range(12):
        found = guards.check(COLLAPSES[name](iteration))
        without = off.check(COLLAPSES[name](iteration))
    assert name in [alarm.guard.name for alarm in found]
    assert name not in [alarm.guard.name for alarm in without]
    (alarm,) = [alarm for alarm in found if alarm.guard.name == name]
    assert f"guards.{key}" in str(alarm)
    assert "sorry" not in str(alarm)


def test_a_figure_that_is_no_number_raises_the_alarm() -> None:
    guards = Guards(GuardsConfig(patience=1))
    (alarm,) = guards.check(replace(healthy(0), kl=float("nan")))
    assert alarm.guard.name == "kl"


def test_patience_counts_iterations_in_a_row() -> None:
    guards = Guards(GuardsConfig(window=1, patience=3))
    bad, good = replace(healthy(0), kl=9.0), healthy(0)
    lengths = [len(guards.check(figures)) for figures in (bad, bad, good, bad, bad, bad, bad, good)]
    assert lengths == [0, 0, 0, 0, 0, 1, 1, 0]
    guards.check(bad)
    guards.check(bad)
    (alarm,) = guards.check(bad)
    assert (alarm.readings, alarm.iterations, alarm.value, alarm.limit) == (3, 3, 9.0, 1.5)


def test_an_old_reading_of_the_judge_does_not_use_up_the_patience() -> None:
    guards = Guards(GuardsConfig(patience=2))
    assert guards.check(healthy(0, judged(3.0, 0.0))) == ()
    assert guards.in_streak
    assert [guards.check(healthy(i)) for i in (1, 2, 3)] == [(), (), ()]
    (alarm,) = guards.check(healthy(4, judged(3.0, 0.0)))
    # Passed since the first reading, five iterations ago: checkpoints since then are not good.
    assert (alarm.readings, alarm.iterations) == (2, 5)


def test_the_window_forgets() -> None:
    guards = Guards(GuardsConfig(window=2, patience=1))
    assert guards.check(replace(healthy(0), kl=9.0))
    assert guards.check(healthy(1))
    assert not guards.check(healthy(2))


def test_a_restored_guard_goes_on_exactly() -> None:
    settings = GuardsConfig(window=3, patience=4, min_rewrites=20)

    def figures(i: int) -> GuardFigures:
        return COLLAPSES["common_share"](i) if i > 2 else healthy(i, judged(2.0, 0.5))

    whole, first, second = Guards(settings), Guards(settings), Guards(settings)
    for i in range(5):
        whole.check(figures(i))
        first.check(figures(i))
    second.restore(json.loads(json.dumps(first.state())))
    for i in range(5, 9):
        assert second.check(figures(i)) == whole.check(figures(i))
        assert second.values == whole.values
    assert second.state() == whole.state()
    assert "sorry" not in json.dumps(second.state())


def test_a_scaled_kl_coefficient_survives_a_resume() -> None:
    for target in (None, 0.1):
        before = KlController(0.4, target, 10.0)
        before.scale(2.0)
        before.update(0.1)
        after = KlController(0.4, target, 10.0)
        after.restore(json.loads(json.dumps(before.state())))
        assert after.coefficient == before.coefficient == pytest.approx(0.8)


def test_another_attempt_draws_other_samples_and_weighs_the_kl_penalty_more(local_ray: None, tmp_path: Path) -> None:
    algorithm = build_toy(toy_config(kl_coeff=0.1))

    def sampled() -> list[tuple[int, ...]]:
        algorithm.train()
        groups = algorithm.last.groups
        return [step.action.tokens for group in groups for t in group.trajectories for step in t.steps]

    try:
        algorithm.companions["guards"] = {"window": [1]}
        algorithm.save_training_state(tmp_path / "good")
        failed = sampled()
        assert algorithm.restore_training_state(tmp_path / "good") == 0
        assert sampled() == failed

        algorithm.restore_training_state(tmp_path / "good")
        algorithm.start_attempt(2, 3.0)
        algorithm.save_training_state(tmp_path / "again")
        second = sampled()
        assert second != failed
        assert algorithm.last.kl_coeff == pytest.approx(0.9)

        algorithm.restore_training_state(tmp_path / "good")
        assert (algorithm.attempt, algorithm.companions) == (0, {"guards": {"window": [1]}})
        assert sampled() == failed
        assert algorithm.last.kl_coeff == pytest.approx(0.1)

        algorithm.restore_training_state(tmp_path / "again")
        assert sampled() == second
        assert algorithm.last.kl_coeff == pytest.approx(0.9)
    finally:
        algorithm.stop()
