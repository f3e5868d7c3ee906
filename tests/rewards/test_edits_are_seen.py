"""What is written into a response reaches every component, wherever it stands and however long the response is."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs import text
from partner_rl.config.schema import RunConfig
from partner_rl.types import ScoreRequest
from rewards.empathy import EmpathyScorer
from rewards.fluency import FluencyBuilder
from rewards.local import LocalRewards
from rewards.registry import all_components

MAX_TOKENS = 128
SENTENCES = tuple(f"On day {number} we went for a walk, and it was good for both of us." for number in range(30))
CANDIDATES = ("I am so sorry that you lost the match.", "What does your brother say?")


@pytest.fixture(scope="module")
def rewards(empathy_checkpoint: Path, coherence_checkpoint: Path, model_cache: Path, tmp_path_factory) -> LocalRewards:
    """The four components with tiny models, which read far less at once than the response has."""
    config = RunConfig.model_validate(
        {
            "models": {"reward_lm": "random:gpt2", "cache_dir": str(model_cache)},
            "rewards": {
                "max_tokens": MAX_TOKENS,
                "empathy": {"checkpoint": str(empathy_checkpoint)},
                "coherence": {"checkpoint": str(coherence_checkpoint)},
            },
        }
    )
    return LocalRewards(all_components(config, tmp_path_factory.mktemp("run")))


def edited(index: int, candidate: str, *, replace: bool) -> ScoreRequest:
    """A long response with a sentence put before its sentence `index`, or into its place."""
    own = text.split(" ".join(SENTENCES))
    changed = (text.replace_sentence if replace else text.insert_sentence)(own, index, candidate)
    others = SENTENCES[:index] + SENTENCES[index + replace :]
    return ScoreRequest("I lost.", text.join(own), text.join(changed), (candidate,), others)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("index", [0, 5, 15, 29])
def test_another_sentence_gives_another_score(rewards: LocalRewards, index: int, replace: bool):
    first, second = rewards.score([edited(index, candidate, replace=replace) for candidate in CANDIDATES])
    for component in ("empathy", "coherence", "mutual_information"):
        assert abs(first.raw[component] - second.raw[component]) > 1e-4, component
    # Random models find all texts next to impossible.
    assert first.raw["fluency"] != pytest.approx(second.raw["fluency"], rel=1e-3, abs=0.0)


@pytest.mark.parametrize("component", ["empathy", "mutual_information"])
def test_what_a_short_response_is_compared_with_makes_no_difference(rewards: LocalRewards, component: str):
    alone, *beside = rewards.score_items(
        component, [("I lost.", "Oh no."), ("I lost.", "Oh no.", "Oh."), ("I lost.", "Oh no.", "Bad luck! Oh no.")]
    )
    for row in beside:
        assert row == pytest.approx(alone, abs=1e-5)


def test_an_original_that_several_rewrites_share_is_read_once(rewards: LocalRewards, monkeypatch: pytest.MonkeyPatch):
    scorer = rewards.scorer("empathy")
    assert isinstance(scorer, EmpathyScorer)
    read: list[tuple[str, str]] = []
    levels = scorer._levels
    monkeypatch.setattr(scorer, "_levels", lambda classifier, pairs: read.extend(pairs) or levels(classifier, pairs))
    rewards.score([ScoreRequest("I lost.", "Oh no.", f"{text} Oh no.", (text,), ("Oh no.",)) for text in CANDIDATES])
    assert sorted(pair[1] for pair in read) == sorted(["Oh no.", *(f"{text} Oh no." for text in CANDIDATES)])


def test_a_long_response_left_alone_changes_no_empathy(rewards: LocalRewards):
    response = " ".join(SENTENCES)
    [breakdown] = rewards.score([ScoreRequest("I lost.", response, response, (), SENTENCES)])
    assert breakdown.raw["empathy"] == 0.0


def test_an_edit_of_a_long_response_is_judged_like_that_of_its_window(rewards: LocalRewards):
    near, far = (
        ScoreRequest(
            "I lost.", " ".join(own), " ".join([*own[:at], "I am so sorry.", *own[at:]]), ("I am so sorry.",), own
        )
        for own, at in ((SENTENCES, 15), (SENTENCES[10:20], 5))
    )
    first, second = rewards.score([near, far])
    assert first.raw["empathy"] == pytest.approx(second.raw["empathy"], abs=1e-5)
    assert first.raw["mutual_information"] == pytest.approx(second.raw["mutual_information"], abs=1e-4)


def test_garbage_behind_the_first_tokens_changes_fluency(model_cache: Path):
    fluency = FluencyBuilder("random:gpt2", model_cache, max_tokens=64).build()
    long = " ".join(SENTENCES[:12])
    assert len(fluency.language_model.encode(long)) > 3 * 64
    (clean, _, _), (spoilt, _, _) = fluency.score([(long,), (f"{long} Zxqv blorp kitten kitten 9f9f the of of.",)])
    assert spoilt != pytest.approx(clean, rel=1e-3, abs=0.0)
