from collections.abc import Callable

import numpy as np
import pytest

from envs import rewriting, text
from envs.rewriting import Edit
from partner_rl.config.schema import EnvConfig
from partner_rl.positions import PositionKind, noop_position
from partner_rl.types import EditAction, Example, ScoreRequest

SETTINGS = EnvConfig(window=2, max_edits=1)
NOOP = EditAction(noop_position(2))


def start(response: str, settings: EnvConfig = SETTINGS) -> rewriting.EpisodeState:
    return rewriting.reset(Example("s", "r", "I cannot sleep.", response), settings)


def check_final_state(state: rewriting.EpisodeState) -> None:
    """What must hold at the end of every episode, whatever the actions were."""
    request = rewriting.score_request(state)
    originals = [
        unit for unit, candidate in zip(state.current.sentences, state.candidates, strict=True) if not candidate
    ]
    replaced = [edit for edit in rewriting.edits(state) if edit.kind is PositionKind.REPLACE]
    assert request.original_response == state.example.response_post == text.join(state.original)
    assert request.other_sentences == tuple(originals)
    assert len(originals) + len(replaced) == len(state.original.sentences)
    assert len(request.candidates) == len(rewriting.edits(state)) <= state.edits_made
    if not request.candidates:
        assert request.rewritten_response == request.original_response
    remaining = iter(state.original.sentences)
    assert all(unit in remaining for unit in originals)


def test_an_insertion_ends_an_episode_of_one_edit() -> None:
    state = rewriting.step(start("Rest. Call me."), EditAction(1, "I am so\nsorry. Really."), SETTINGS)
    assert state.done
    assert rewriting.score_request(state) == ScoreRequest(
        "I cannot sleep.",
        "Rest. Call me.",
        "Rest. I am so sorry. Really. Call me.",
        candidates=("I am so sorry. Really.",),
        other_sentences=("Rest.", "Call me."),
    )
    assert rewriting.edits(state) == (Edit(PositionKind.INSERT, 1, "I am so sorry. Really.", None),)


def test_a_replacement_remembers_what_it_replaced() -> None:
    state = rewriting.step(start("Rest. Call me.\n"), EditAction(4, "How do you feel?"), SETTINGS)
    assert rewriting.score_request(state).rewritten_response == "Rest. How do you feel?\n"
    assert rewriting.edits(state) == (Edit(PositionKind.REPLACE, 1, "How do you feel?", "Call me."),)


def test_no_ops_slide_the_window_to_the_end() -> None:
    state = start("A one. B two. C three. D four. E five.")
    spans = []
    while not state.done:
        spans.append(rewriting.observe(state).span)
        state = rewriting.step(state, NOOP, SETTINGS)
    assert spans == [("A one.", "B two."), ("C three.", "D four."), ("E five.",)]
    assert rewriting.score_request(state).rewritten_response == "A one. B two. C three. D four. E five."
    assert rewriting.edits(state) == ()


def test_edits_in_a_later_window_count_from_the_window() -> None:
    state = rewriting.step(start("A one. B two. C three."), NOOP, SETTINGS)
    state = rewriting.step(state, EditAction(3, "New one."), SETTINGS)
    assert rewriting.score_request(state).rewritten_response == "A one. B two. New one."


def test_more_edits_stay_in_the_window_which_is_cut_anew() -> None:
    settings = EnvConfig(window=2, max_edits=3)
    state = rewriting.step(start("A one. B two. C three.", settings), EditAction(0, "First."), settings)
    assert not state.done
    assert rewriting.observe(state).span == ("First.", "A one.")
    state = rewriting.step(state, EditAction(3, "Second."), settings)
    state = rewriting.step(state, EditAction(4, "Third."), settings)
    assert state.done
    assert rewriting.edits(state) == (
        Edit(PositionKind.INSERT, 0, "Second.", None),
        Edit(PositionKind.REPLACE, 1, "Third.", "A one."),
    )
    assert rewriting.score_request(state).rewritten_response == "Second. Third. B two. C three."


def test_an_empty_candidate_counts_and_changes_nothing() -> None:
    state = rewriting.step(start("A one.  B two."), EditAction(3, " \n"), SETTINGS)
    assert (state.done, state.edits_made, rewriting.edits(state)) == (True, 1, ())
    assert rewriting.score_request(state).rewritten_response == "A one.  B two."


def test_a_response_that_fills_its_windows_has_no_empty_one_after_them() -> None:
    state = rewriting.step(start("A one. B two. C three. D four."), NOOP, SETTINGS)
    assert rewriting.observe(state).span == ("C three.", "D four.")
    assert rewriting.step(state, NOOP, SETTINGS).done


@pytest.mark.parametrize("response", ["", " \n"])
def test_a_response_without_sentences_has_one_empty_window(response: str) -> None:
    state = start(response)
    assert rewriting.observe(state).span == ()
    assert np.flatnonzero(rewriting.position_mask(state)).tolist() == [0, 5]
    assert rewriting.step(state, NOOP, SETTINGS).done
    inserted = rewriting.step(state, EditAction(0, "I am here."), SETTINGS)
    assert rewriting.score_request(inserted).rewritten_response == "I am here."


def test_masked_positions_are_errors() -> None:
    with pytest.raises(ValueError, match=r"position 4 \(replace at 1\) is masked out: .* 1 of at most 2 sentences"):
        rewriting.step(start("One."), EditAction(4, "New."), SETTINGS)
    with pytest.raises(ValueError, match="position 6 is outside 0…5"):
        rewriting.step(start("One."), EditAction(6, "New."), SETTINGS)


def test_finished_episodes_and_other_windows_are_errors() -> None:
    state = start("One.")
    with pytest.raises(ValueError, match="started with window 2, not 4"):
        rewriting.step(state, EditAction(0, "New."), EnvConfig(window=4))
    with pytest.raises(ValueError, match="the episode is over"):
        rewriting.step(rewriting.step(state, NOOP, SETTINGS), NOOP, SETTINGS)


def test_a_long_response_is_seen_once_from_end_to_end(examples: list[Example]) -> None:
    settings = EnvConfig(window=4, max_edits=1)
    state = rewriting.reset(examples[-1], settings)
    assert len(examples[-1].response_post.split()) >= 1800
    seen: list[str] = []
    while not state.done:
        seen += rewriting.observe(state).span
        state = rewriting.step(state, EditAction(noop_position(4)), settings)
    assert tuple(seen) == state.original.sentences


def roll_out(
    examples: list[Example], episodes: int, random_action: Callable[[np.random.Generator, np.ndarray], EditAction]
) -> None:
    generator = np.random.default_rng(0)
    for number in range(episodes):
        settings = EnvConfig(window=int(generator.integers(1, 6)), max_edits=int(generator.integers(1, 5)))
        state = rewriting.reset(examples[number % len(examples)], settings)
        while not state.done:
            mask = rewriting.position_mask(state)
            assert mask.shape == (2 * settings.window + 2,)
            state = rewriting.step(state, random_action(generator, mask), settings)
        check_final_state(state)


def test_a_random_policy_keeps_the_invariants(examples: list[Example], random_action) -> None:
    roll_out(examples, 1000, random_action)


@pytest.mark.real
def test_a_random_policy_keeps_the_invariants_on_real_posts(real_examples: list[Example], random_action) -> None:
    for pair in real_examples:
        for post in (pair.seeker_post, pair.response_post):
            assert text.join(text.split(post)) == post
    roll_out(real_examples, 1000, random_action)
