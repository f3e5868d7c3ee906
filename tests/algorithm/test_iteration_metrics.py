"""The metrics of an iteration in closed form: groups without spread, the commonest sentence and opening."""

from __future__ import annotations

import numpy as np
import pytest

from partner_rl.algorithm.iteration_metrics import iteration_metrics
from partner_rl.algorithm.trajectory import AdvantageBatch, Iteration, SampledGroup, Step, Trajectory
from partner_rl.policy.actions import ActionTokens
from partner_rl.types import Example, RewardBreakdown, ScoreRequest

PHASES = dict.fromkeys(("generate", "score", "update", "sync", "overlap", "iteration"), 1.0)


def trajectory(sentence: str) -> Trajectory:
    request = ScoreRequest("I am sad.", "Go out.", f"{sentence} Go out.", (sentence,), ("Go out.",))
    step = Step((1, 2), 1, ActionTokens(0, (3, 4)), (-0.5, -1.0, -2.0))
    return Trajectory((step,), request, RewardBreakdown({"empathy": 1.0}, weights={"empathy": 1.0}))


def metrics(groups: list[list[str]], advantages: list[list[float]], **parts: list[list[float]]) -> dict[str, float]:
    example = Example("s", "r", "I am sad.", "Go out.")
    sampled = tuple(SampledGroup(example, tuple(map(trajectory, row))) for row in groups)
    values = {name: np.array(rows) for name, rows in parts.items()}
    signal = AdvantageBatch(sampled, np.array(advantages), {}, values, {})
    return iteration_metrics(Iteration(0, signal, {}, PHASES, 0.0), 2)


def test_a_group_whose_samples_earn_the_same_is_without_spread() -> None:
    groups = [["One.", "Two."]] * 4
    found = metrics(
        groups,
        # Rounding is no spread; an equal advantage that is not 0 is none either.
        [[0.0, 1e-12], [0.7, 0.7], [1.0, -1.0], [0.0, 0.0]],
        empathy=[[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]],
        fluency=[[0.1, 0.2], [0.3, 0.1], [0.2, 0.1], [0.1, 0.0]],
    )
    assert found["train/groups_without_spread"] == 0.75
    assert found["reward/without_spread/empathy"] == 0.75
    assert found["reward/without_spread/fluency"] == 0.0


def test_the_commonest_sentence_and_opening_are_shares_of_what_was_written() -> None:
    groups = [["I am so sorry for you.", "i am so SORRY for you!"], ["I am so sorry about it.", "What happened?"]]
    found = metrics(groups, [[0.0, 1.0], [1.0, 0.0]])
    assert found["policy/commonest_sentence"] == 0.5
    assert found["policy/commonest_opening"] == 0.75
    assert found["policy/effective_openings"] == pytest.approx(0.75**-0.75 * 0.25**-0.25)
