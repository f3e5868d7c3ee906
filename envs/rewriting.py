"""Empathic rewriting as a Markov decision process: pure transitions between frozen states.

The state is a seeker's post and a window of `k` sentences of the response; an action is a position in the window and
a candidate sentence (PARTNER, section 4). An edit leaves the window where it is, cut anew from the edited response; a
no-op slides it by `k` sentences. The episode ends after `max_edits` edits, or when a no-op leaves the last window.
With the positions `end` (an ablation) the window is always the last one, and each edit adds a sentence after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from envs import text
from partner_rl import positions
from partner_rl.config.schema import EnvConfig
from partner_rl.positions import Position, PositionKind, PositionRule
from partner_rl.types import EditAction, Example, RewriteState, ScoreRequest


@dataclass(frozen=True, slots=True)
class CandidateOrigin:
    """Where a generated sentence of the response came from.

    Attributes:
        replaced: The supporter's own sentence that it replaced; None for an inserted one.
    """

    kind: PositionKind
    replaced: str | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """One difference between the original and the rewritten response, for display.

    Attributes:
        sentence_index: Index of the generated sentence among the rewritten response's sentences.
        replaced: The original's sentence that it replaced; None for an insertion.
    """

    kind: PositionKind
    sentence_index: int
    sentence: str
    replaced: str | None


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """An episode between two actions.

    Attributes:
        current: The response now, `S` sentences. A generated candidate is one of them, whatever it consists of.
        candidates: One entry for each of the `S` sentences: None for the supporter's own.
        window: `k`, the sentences that the policy sees at once.
        window_start: Index of the window's first sentence.
        edits_made: Edits so far, those with an empty candidate included.
    """

    example: Example
    original: text.SplitText
    current: text.SplitText
    candidates: tuple[CandidateOrigin | None, ...]
    window: int
    window_start: int = 0
    edits_made: int = 0
    done: bool = False
    positions: PositionRule = "all"


def reset(example: Example, settings: EnvConfig) -> EpisodeState:
    """The first state of an episode. A response without any sentence has one empty window."""
    split = text.split(example.response_post)
    state = EpisodeState(example, split, split, (None,) * len(split.sentences), settings.window)
    return _at_the_end(state) if settings.positions == "end" else state


def step(state: EpisodeState, action: EditAction, settings: EnvConfig) -> EpisodeState:
    """The state after an action.

    A candidate that `envs.text.clean_sentence` leaves empty counts as an edit and changes nothing.

    Raises:
        ValueError: The episode is over, the position is masked out or outside `0…2k+1`, or the settings have another
            window than the episode was started with.
    """
    if state.done:
        raise ValueError("the episode is over: start another one with reset")
    if settings.window != state.window:
        raise ValueError(f"the episode was started with window {state.window}, not {settings.window}")
    position = _decode(state, action.position)
    if position.kind is PositionKind.NOOP:
        return _slide(state)
    edited = _edit(state, position, action.sentence)
    if edited.positions == "end":
        edited = _at_the_end(edited)
    edits_made = state.edits_made + 1
    return replace(edited, edits_made=edits_made, done=edits_made >= settings.max_edits)


def observe(state: EpisodeState) -> RewriteState:
    """What the policy sees: the seeker's post and the window's sentences, at most `k`."""
    return RewriteState(state.example.seeker_post, _span(state))


def position_mask(state: EpisodeState) -> npt.NDArray[np.bool_]:
    """Which positions are valid now, shape `[2k+2]`."""
    return positions.position_mask(len(_span(state)), state.window, state.positions)


def score_request(state: EpisodeState) -> ScoreRequest:
    """The response as it stands, against the original, for the rewards."""
    units = tuple(zip(state.current.sentences, state.candidates, strict=True))
    return ScoreRequest(
        seeker_post=state.example.seeker_post,
        original_response=state.example.response_post,
        rewritten_response=text.join(state.current),
        candidates=tuple(sentence for sentence, candidate in units if candidate is not None),
        other_sentences=tuple(sentence for sentence, candidate in units if candidate is None),
    )


def written_sentences(request: ScoreRequest) -> tuple[str, ...]:
    """The sentences that a rewrite has and its original had not, in reading order: a candidate may hold several."""
    return tuple(sentence for candidate in request.candidates for sentence in text.split(candidate).sentences)


def edits(state: EpisodeState) -> tuple[Edit, ...]:
    """What the rewritten response has that the original had not, in reading order.

    These are net edits: a candidate that a later edit replaced is gone, and the later one carries what the first had
    replaced; an edit with an empty candidate leaves none.
    """
    return tuple(
        Edit(candidate.kind, index, sentence, candidate.replaced)
        for index, (sentence, candidate) in enumerate(zip(state.current.sentences, state.candidates, strict=True))
        if candidate is not None
    )


def _at_the_end(state: EpisodeState) -> EpisodeState:
    """The window at the last sentences, where one may be added."""
    last = max(0, len(state.current.sentences) - 1)
    return replace(state, window_start=last // state.window * state.window, positions="end")


def _span(state: EpisodeState) -> tuple[str, ...]:
    return state.current.sentences[state.window_start : state.window_start + state.window]


def _decode(state: EpisodeState, number: int) -> Position:
    position = positions.decode_position(number, state.window)
    if not position_mask(state)[number]:
        raise ValueError(
            f"position {number} ({position.kind} at {position.index}) is masked out: the window holds "
            f"{len(_span(state))} of at most {state.window} sentences"
        )
    return position


def _slide(state: EpisodeState) -> EpisodeState:
    next_start = state.window_start + state.window
    if next_start < len(state.current.sentences):
        return replace(state, window_start=next_start)
    return replace(state, done=True)


def _edit(state: EpisodeState, position: Position, sentence: str) -> EpisodeState:
    if not text.clean_sentence(sentence):
        return state
    index = state.window_start + position.index
    before, after = state.candidates[:index], state.candidates[index:]
    if position.kind is PositionKind.INSERT:
        current = text.insert_sentence(state.current, index, sentence)
        return replace(state, current=current, candidates=(*before, CandidateOrigin(PositionKind.INSERT), *after))
    # A candidate that takes an earlier candidate's place stands in the same relation to the original as that one did.
    origin = after[0] or CandidateOrigin(PositionKind.REPLACE, state.current.sentences[index])
    current = text.replace_sentence(state.current, index, sentence)
    return replace(state, current=current, candidates=(*before, origin, *after[1:]))
