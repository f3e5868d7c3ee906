"""The guards: each metric in closed form, each alarm on a made-up collapse, recorded runs, silence on a healthy one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partner_rl.algorithm.guard_limits import LIMITS
from partner_rl.algorithm.guard_metrics import (
    GuardMetrics,
    JudgedGain,
    Measured,
    effective_number,
    guard_metrics,
    largest_share,
    measured_of,
    own_overlaps,
    words_of,
)
from partner_rl.algorithm.guards import Alarm, Guards, divergence, judged_values, replay, specificity, window_values
from partner_rl.algorithm.kl_control import KlController
from partner_rl.algorithm.machine_metrics import MachineReading, machine_values, steady_growth
from partner_rl.config.guard_schema import GuardsConfig
from partner_rl.types import ScoreRequest
from tests.algorithm.toy import build_toy, toy_config

CURVES = Path(__file__).parent / "curves"
NOUNS = [f"{a}{b}" for a in ("exam", "job", "cat", "night", "friend", "doctor") for b in ("", "s", "ing", "er", "ed")]
MEASURED = Measured(kl_sentence=2.0, position_entropy=1.5, sentence_entropy=1.6, fluency=0.02)


def request(original: str, *sentences: str, post: str = "I am sad.") -> ScoreRequest:
    return ScoreRequest(post, original, " ".join([*sentences, original]), sentences, (original,))


def healthy(iteration: int, judged: JudgedGain | None = None, **measured: float) -> GuardMetrics:
    """Forty different sentences for ten posts, and two responses left alone."""
    rng = np.random.default_rng(iteration)
    requests = []
    for _ in range(10):
        nouns = [_noun(rng) for _ in range(8)]
        written = [f"{rng.choice(nouns)} {rng.choice(nouns)} and your {rng.choice(nouns)}?" for _ in range(4)]
        post = f"I am sad about {' '.join(nouns)}."
        requests += [request("Go out and take a walk in the sun.", sentence, post=post) for sentence in written]
    quiet = [request("Be strong."), request("Be strong.")]
    return guard_metrics([*requests, *quiet], replace(MEASURED, **measured), judged)


def _noun(rng: np.random.Generator) -> str:
    return f"{rng.choice(NOUNS)}{rng.integers(9)}"


def judged(reward: float, judge: float) -> JudgedGain:
    return JudgedGain(judge, reward, 0.5)


def reading(iteration: int) -> MachineReading:
    """A machine in use, whose memory fills at first and then goes up and down, and whose iterations vary."""
    rng = np.random.default_rng(iteration)
    return MachineReading(0.5 + 0.1 * min(1.0, iteration / 3) + 0.004 * rng.normal(), 20.0 + 8.0 * rng.random())


def test_counts_of_an_iteration_in_closed_form() -> None:
    requests = [
        request("Go out now.", "I am sorry, I am sorry, I am sorry."),
        request("Go out now.", "What happened?"),
        request("Go out now.", "what HAPPENED"),
        request("Go out now.", "I am sorry, I hear you."),
        request("Go out now."),
    ]
    found = guard_metrics(requests, MEASURED)
    assert (found.episodes, found.unchanged) == (5, 1)
    assert (found.words_original, found.words_rewritten) == (15, 15 + 9 + 2 + 2 + 6)
    # I am sorry I am sorry I am sorry: 7 triples, 3 different; I am sorry I hear you: 4 of 4.
    assert (found.triples, found.repeated_triples) == (11, 4)
    assert sorted(found.sentences.values()) == [1, 1, 2]
    # Both begin with I am sorry I; a sentence of two words is its own opening.
    assert sorted(found.openings.values()) == [2, 2]
    assert (found.compared, found.overlap) == (0, 0.0), "one post cannot be compared with others"


def test_words_ignore_case_and_punctuation() -> None:
    assert words_of("Don’t — GO, it's 5!") == ("don't", "go", "it's", "5")
    assert words_of("🙂 …") == ()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_the_effective_number_lies_between_one_over_the_largest_share_and_the_number(counts: list[int]) -> None:
    found, share = effective_number(dict(enumerate(counts))), largest_share(dict(enumerate(counts)))
    assert 1.0 / share <= found * (1 + 1e-9)
    assert found <= len(counts) * (1 + 1e-9)
    assert effective_number(dict.fromkeys(range(len(counts)), 2)) == pytest.approx(len(counts))


def test_what_is_said_to_all_is_specific_to_nobody_and_what_takes_up_the_post_is() -> None:
    posts = [f"My {noun} went badly{' and I am so sad that I cannot sleep' * i}." for i, noun in enumerate(NOUNS[:6])]
    alike = [request("Go.", "I am so sorry that you are sad.", post=post) for post in posts]
    assert own_overlaps(alike) == pytest.approx([0.0] * 6), "however long a post is"
    own = [request("Go.", f"Your {noun} matters.", post=post) for noun, post in zip(NOUNS, posts, strict=False)]
    assert own_overlaps(own) == pytest.approx([1 / 3] * 6)
    assert own_overlaps(alike[:2]) == []
    # Half of the posts are answered with their noun: mean 1/6 or less, plus the standard error of six posts.
    mixed = guard_metrics([*alike[:3], *own[3:]], MEASURED)
    overlaps = own_overlaps([*alike[:3], *own[3:]])
    expected = np.mean(overlaps) + np.std(overlaps) / math.sqrt(5)
    assert specificity([mixed], [1.0]) == pytest.approx(expected)
    assert specificity([mixed, mixed], [1.0, 1.0]) == pytest.approx(
        np.mean(overlaps) + np.std(overlaps) / math.sqrt(11)
    )


def test_figures_of_a_window_in_closed_form() -> None:
    first = guard_metrics([request("Go out.", "You are right.")] * 3, Measured(2.0, 1.0))
    second = guard_metrics([request("Go out.", "Are you sure?"), request("Go out.")], Measured(4.0, 2.0, 1.5))
    found = window_values([first, second], [0.5, 1.0], min_rewrites=2.5)
    assert found == pytest.approx(
        {
            "noop_share": 1 / 3.5,
            "self_disclosure": 0.0,
            "length_ratio": (0.5 * 15 + 7) / (0.5 * 6 + 4),
            "repetition": 0.0,
            "kl_sentence": (0.5 * 2 + 4) / 1.5,
            "position_entropy": (0.5 * 1 + 2) / 1.5,
            "sentence_entropy": 1.5,
            # One sentence 1.5 times, the other once.
            "commonest_share": 0.6,
            "opening_share": 0.6,
            "effective_openings": math.exp(-0.6 * math.log(0.6) - 0.4 * math.log(0.4)),
        }
    )
    # With less by weight the iterations count alike: three times and once.
    assert window_values([first, second], [0.5, 1.0], min_rewrites=4)["commonest_share"] == 0.75
    few = window_values([first, second], [0.5, 1.0], min_rewrites=5)
    assert found.keys() - few.keys() == {"commonest_share", "opening_share", "effective_openings"}
    assert window_values([GuardMetrics()], [1.0]) == {}


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


def test_the_machine_in_closed_form() -> None:
    assert steady_growth([0.1 * i for i in range(9)]) == pytest.approx(0.1)
    assert steady_growth([0.1 * i for i in range(10)]) == pytest.approx(0.1)
    assert steady_growth([0.0] * 5 + [1.0] * 5) < 0.15
    assert steady_growth([0.0] * 3 + [1.0] * 7) == 0.0, "what rises once and stays does not grow"
    assert steady_growth([0.5] * 9) == 0.0
    assert machine_values([MachineReading(0.5, 10.0)] * 4) == {}
    assert machine_values([MachineReading(None, 10.0)] * 4 + [MachineReading(None, 40.0)]) == {"slowdown": 4.0}
    assert machine_values([MachineReading(0.5, None)] * 9) == {"memory_growth": 0.0}


def test_a_healthy_run_raises_no_alarm_with_the_default_limits() -> None:
    guards = Guards(GuardsConfig())
    for iteration in range(40):
        gain = judged(1.2 + 0.01 * iteration, 0.8 + 0.01 * iteration) if iteration % 3 == 0 else None
        assert guards.check(healthy(iteration, gain), reading(iteration)) == ()
        assert not guards.in_streak
    watched = {guard.name for guard in LIMITS}
    assert watched <= guards.values.keys()


def _of_posts(*sentences: str, posts: int = 12) -> GuardMetrics:
    """Each post is answered with each sentence."""
    return guard_metrics(
        [
            request("Go out and take a walk.", sentence, post=f"My {noun} went badly.")
            for noun in NOUNS[:posts]
            for sentence in sentences
        ],
        MEASURED,
    )


def _one_for_all(_: int) -> GuardMetrics:
    return _of_posts("I am so sorry to hear that.")


def _one_opening(iteration: int) -> GuardMetrics:
    rng = np.random.default_rng(iteration)
    return _of_posts(*(f"I'm sorry to hear about the {_noun(rng)}." for _ in range(4)))


def _two_openings(iteration: int) -> GuardMetrics:
    rng = np.random.default_rng(iteration)
    starts = ("I'm sorry to hear about", "That must be hard with")
    return _of_posts(*(f"{start} the {_noun(rng)}." for start in starts for _ in range(2)))


def _stutter(_: int) -> GuardMetrics:
    return guard_metrics(
        [request("Go out and walk.", f"I feel {noun} so much I feel {noun} so much.") for noun in NOUNS], MEASURED
    )


def _long(iteration: int) -> GuardMetrics:
    rng = np.random.default_rng(iteration)
    sentences = [" ".join(_noun(rng) for _ in range(20)) + "." for _ in range(12)]
    return guard_metrics([request("Go out.", sentence) for sentence in sentences], MEASURED)


def _me_too(_: int) -> GuardMetrics:
    return guard_metrics([request("Go out.", f"I had the same with my {noun}.") for noun in NOUNS], MEASURED)


COLLAPSES = {
    "kl_sentence": lambda i: healthy(i, kl_sentence=9.0),
    "commonest_share": _one_for_all,
    "opening_share": _one_opening,
    "effective_openings": _two_openings,
    "specificity": _one_for_all,
    "sentence_entropy_kept": lambda i: healthy(i, sentence_entropy=1.6 if i < 3 else 0.4),
    "position_entropy": lambda i: healthy(i, position_entropy=0.1),
    "fluency_kept": lambda i: healthy(i, fluency=0.02 if i < 3 else 0.005),
    "repetition": _stutter,
    "length_ratio": _long,
    "self_disclosure": _me_too,
    "noop_share": lambda i: guard_metrics([request("Go out.")] * 12, MEASURED),
    "judge_gap": lambda i: healthy(i, judged(2.5, 0.2)),
    "judge_divergence": lambda i: healthy(i, judged(1.0 + 0.1 * i, 1.0 - 0.1 * i)),
    "memory_growth": healthy,
    "slowdown": healthy,
}
MACHINES = {
    "memory_growth": lambda i: MachineReading(0.3 + 0.01 * i, 10.0),
    "slowdown": lambda i: MachineReading(0.3, 10.0 if i < 8 else 50.0),
}


def test_every_guard_has_its_collapse() -> None:
    assert COLLAPSES.keys() == {guard.name for guard in LIMITS}


@pytest.mark.parametrize("name", COLLAPSES)
def test_each_guard_fires_on_its_collapse_and_null_turns_it_off(name: str) -> None:
    (guard,) = [guard for guard in LIMITS if guard.name == name]
    guards, off = Guards(GuardsConfig()), Guards(GuardsConfig(**{guard.key: None}))
    for iteration in range(12):
        machine = MACHINES.get(name, reading)(iteration)
        found = guards.check(COLLAPSES[name](iteration), machine)
        without = off.check(COLLAPSES[name](iteration), machine)
    assert name in [alarm.guard.name for alarm in found]
    assert name not in [alarm.guard.name for alarm in without]
    (alarm,) = [alarm for alarm in found if alarm.guard.name == name]
    assert f"guards.{guard.key}" in str(alarm)
    assert guard.advice in str(alarm)
    assert "\n" not in str(alarm)
    assert "sorry" not in str(alarm)
    assert guards.in_streak != guard.of_machine


def recorded(name: str) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in (CURVES / f"{name}.jsonl").read_text().splitlines()]


def first_alarms(name: str, settings: GuardsConfig) -> dict[str, int]:
    """Guard → the iteration of its first alarm in a recorded run."""
    first: dict[str, int] = {}
    for step, alarms in replay(recorded(name), settings):
        for alarm in alarms:
            first.setdefault(alarm.guard.name, step)
    return first


def test_recorded_collapses_raise_alarms_in_time_and_a_kept_run_none() -> None:
    settings = GuardsConfig()
    assert first_alarms("collapsed", settings) == {
        "kl_sentence": 7,
        "sentence_entropy_kept": 10,
        "position_entropy": 11,
    }
    assert first_alarms("collapsed_epitome", settings) == {"kl_sentence": 10, "sentence_entropy_kept": 13}
    assert first_alarms("kept", settings) == {}


def test_an_alarm_on_a_recorded_collapse_does_not_flicker() -> None:
    raised = [step for step, alarms in replay(recorded("collapsed"), GuardsConfig()) if alarms]
    assert raised == list(range(7, 15))


def test_recorded_files_give_the_divergence_of_a_sentence_where_they_lack_it() -> None:
    row = {"policy/kl": 0.5, "policy/sentence_tokens": 9.0}
    assert measured_of(row) == Measured(kl_sentence=5.0)
    assert measured_of({**row, "policy/kl_sentence": 4.0}) == Measured(kl_sentence=4.0)
    assert measured_of({"policy/kl": 0.5, "policy/sentence_tokens": None}) == Measured()


def test_a_figure_that_is_no_number_raises_the_alarm() -> None:
    guards = Guards(GuardsConfig(patience=1))
    (alarm,) = guards.check(healthy(0, kl_sentence=float("nan")))
    assert alarm.guard.name == "kl_sentence"


def followed(guards: Guards, *kl: float) -> list[Alarm | None]:
    """The alarm, if there is one, after each metric."""
    return [next(iter(guards.check(healthy(0, kl_sentence=value))), None) for value in kl]


def test_patience_counts_iterations_without_one_that_keeps_the_limit() -> None:
    guards = Guards(GuardsConfig(window=1, patience=3))
    alarms = followed(guards, 9, 9, 2, 9, 9, 9, 9, 2)
    assert [alarm is not None for alarm in alarms] == [False] * 5 + [True, True, False]
    first, second = alarms[5], alarms[6]
    assert first is not None
    assert second is not None
    assert (first.iterations, first.value, first.last, first.limit, first.age) == (3, 9.0, 9.0, 8.0, 0)
    assert (second.iterations, second.age) == (4, 1)


def test_one_odd_iteration_neither_starts_nor_ends_an_alarm() -> None:
    assert followed(Guards(GuardsConfig(min_position_entropy=None)), 2, 2, 40, 2, 2, 2, 2) == [None] * 7
    guards = Guards(GuardsConfig())
    alarms = followed(guards, 2, 2, 40, 40, 2, 40, 40)
    assert [alarm is not None for alarm in alarms] == [False, False, False, True, True, True, True]
    # Half of the mean's weight is on the last iteration and a half: it ends soon after the policy is back.
    after = followed(guards, 2, 2, 2, 2, 2, 2)
    assert after[-1] is None
    assert not guards.in_streak


def test_an_old_reading_of_the_judge_does_not_use_up_the_patience() -> None:
    guards = Guards(GuardsConfig(patience=2))
    assert guards.check(healthy(0, judged(3.0, 0.0))) == ()
    assert guards.in_streak
    assert [guards.check(healthy(i)) for i in (1, 2, 3)] == [(), (), ()]
    (alarm,) = guards.check(healthy(4, judged(3.0, 0.0)))
    # Passed since the first reading, five iterations ago: checkpoints since then are not good.
    assert alarm.iterations == 5


def test_a_restored_guard_goes_on_exactly() -> None:
    settings = GuardsConfig(window=3, patience=4, min_rewrites=20)

    def metrics(i: int) -> GuardMetrics:
        return COLLAPSES["commonest_share"](i) if i > 2 else healthy(i, judged(2.0, 0.5))

    whole, first, second = Guards(settings), Guards(settings), Guards(settings)
    for i in range(5):
        whole.check(metrics(i))
        first.check(metrics(i))
    second.restore(json.loads(json.dumps(first.state())))
    for i in range(5, 9):
        assert second.check(metrics(i)) == whole.check(metrics(i))
        assert second.values == whole.values
    assert second.state() == whole.state()
    assert "sorry" not in json.dumps(second.state())


def test_a_state_tells_nothing_of_the_machine() -> None:
    here, elsewhere = Guards(GuardsConfig()), Guards(GuardsConfig())
    for i in range(12):
        assert here.check(healthy(i), MACHINES["memory_growth"](i)) or i < 10
        elsewhere.check(healthy(i), reading(i))
    assert here.state() == elsewhere.state()


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
        algorithm.extra_state["guards"] = {"window": [1]}
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
        assert (algorithm.attempt, algorithm.extra_state) == (0, {"guards": {"window": [1]}})
        assert sampled() == failed
        assert algorithm.last.kl_coeff == pytest.approx(0.1)

        algorithm.restore_training_state(tmp_path / "again")
        assert sampled() == second
        assert algorithm.last.kl_coeff == pytest.approx(0.9)
    finally:
        algorithm.stop()
