"""Supervised examples from real responses (PARTNER, section 4.5).

A sentence that carries empathy is taken out of a real response; the example is the response without it and the edit
that brings it back. That recipe yields insertions alone. So that the policy also meets the replace positions, a small
share of examples puts a neutral sentence of another response in the empathic sentence's place, to be replaced by it;
and some show an already empathic response, to be left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from envs import rewriting, text
from partner_rl.config.schema import EnvConfig, WarmStartConfig
from partner_rl.positions import Position, PositionKind, decode_position, encode_position, noop_position
from partner_rl.text.self_disclosure import speaks_of_itself
from partner_rl.types import MECHANISMS, EditAction, Example, RewriteState
from partner_rl.warmstart.annotate import AnnotatedResponse, annotate, why_unusable
from partner_rl.warmstart.balance import grouped, interleaved

MIN_WORDS: Final = 4
"""A shorter sentence is no target: it is rarely more than a greeting."""

MAX_WORDS: Final = 40
"""A longer sentence is no target, unless the caller sets another limit."""

MIN_LEVEL: Final = 1.0
"""A sentence of at least this level in a mechanism carries empathy; what carries the most of all three comes first."""

NEUTRAL_EMPATHY: Final = 0.5
"""Responses below this empathy lend their sentences as neutral ones: labelled 0, or scored close to it."""

NOOP_EMPATHY: Final = 4.0
"""Responses of at least this empathy are to be left alone."""

REPLACE_SHARE: Final = 0.15
"""Share of the edits that replace a sentence."""

NEUTRAL_DRAWS: Final = 20
"""Neutral sentences drawn for a place; the one that shares the most words with the seeker's post is put there."""


@dataclass(frozen=True, slots=True)
class WarmStartExample:
    """A state and the edit that the policy should make in it."""

    state: RewriteState
    action: EditAction


@dataclass(frozen=True, slots=True)
class PairCounts:
    """What a corpus gave, in numbers.

    Attributes:
        unusable_sentences: Those of the empathic sentences that are too short, too long, with a web address, or of the
            writer's own life where that is not asked for.
    """

    empathic_sentences: int
    unusable_sentences: int
    inserts: int
    replaces: int
    noops: int


@dataclass(frozen=True, slots=True)
class Target:
    """An empathic sentence of a response, or some adjacent ones, that could be an example's answer.

    Attributes:
        index: Which of its sentences, or the first of them.
        stop: The sentence after the last of them.
        mechanism: What they carry most of.
        level: Their level in that mechanism.
        total: The sum of their levels in all mechanisms.
        empathic: The response's empathic sentences, these among them.
    """

    response: AnnotatedResponse
    index: int
    stop: int
    mechanism: str
    level: float
    total: float
    empathic: frozenset[int]

    @property
    def sentence(self) -> str:
        """The sentence, or the sentences with a space between them."""
        return " ".join(self.response.split.sentences[self.index : self.stop])

    @property
    def indices(self) -> frozenset[int]:
        """The sentences."""
        return frozenset(range(self.index, self.stop))


@dataclass(frozen=True, slots=True)
class Draft:
    """An example before selection, with its origin and what it is balanced by.

    Attributes:
        mechanism: What the sentence carries most of; "" for a no-op.
        level: The sentence's level in that mechanism, 0…2; 0 for a no-op.
        total: The sum of its levels in all mechanisms, 0…6; the larger ones are taken first.
    """

    example: WarmStartExample
    seeker_id: str
    response_id: str
    mechanism: str = ""
    level: float = 0.0
    total: float = 0.0


def make_pairs(
    examples: Sequence[Example],
    env: EnvConfig,
    settings: WarmStartConfig,
    seed: int,
    max_words: int = MAX_WORDS,
    max_sentences: int = 1,
) -> tuple[list[WarmStartExample], PairCounts]:
    """Makes supervised examples in random order, balanced over mechanisms and positions.

    The balance holds when `settings.max_examples` leaves a choice; without a limit every usable sentence is an example.

    Args:
        examples: Real pairs; those without labels are left out. A sentence carries empathy where a rationale says so.
        env: The task; states are windows as `envs.rewriting` cuts them.
        settings: Number of examples and share of no-ops.
        seed: The same seed and examples give the same result.
        max_words: Longest target sentence; choose it so that a sentence fits the policy's `max_new_tokens`.
        max_sentences: Most adjacent empathic sentences in one target.

    Returns:
        The examples, and counts for the log.
    """
    rng = np.random.default_rng(seed)
    responses = annotate(examples)
    own = settings.own_experience
    targets = find_targets(responses, max_sentences=max_sentences, max_words=max_words, own_experience=own)
    usable = [target for target in targets if not why_unusable(target.sentence, MIN_WORDS, max_words, own)]
    inserts, replaces = draft_edits(usable, neutral_sentences(responses, max_words), env, rng)
    chosen = _choose_edits(inserts, replaces, settings)
    noops = draft_noops(responses, env, rng)[: _noop_count(len(chosen), settings)]
    pairs = [draft.example for draft in (*chosen, *noops)]
    counts = PairCounts(len(targets), len(targets) - len(usable), *_kinds(chosen, env), len(noops))
    return [pairs[row] for row in rng.permutation(len(pairs))], counts


def find_targets(
    responses: Sequence[AnnotatedResponse],
    min_level: float = MIN_LEVEL,
    max_sentences: int = 1,
    max_words: int = MAX_WORDS,
    own_experience: bool = True,
) -> list[Target]:
    """Every empathic sentence, filed under its strongest mechanism; the rarer one when two are equally strong.

    Args:
        responses: Responses with the levels of their sentences.
        min_level: A sentence of at least this level in a mechanism is empathic.
        max_sentences: Adjacent empathic sentences make one target, as many as this: what a supporter says in a row
            ("I'm so sorry. What happened?") often carries more than one mechanism.
        max_words: Most words of a target of several sentences.
        own_experience: Whether a sentence that speaks of its writer may be in a target with others; else it is one by
            itself, so that they can be learned without it.
    """
    empathic = [
        frozenset(index for index, levels in enumerate(response.levels) if max(levels) >= min_level)
        for response in responses
    ]
    carried = [response.levels[index] for response, found in zip(responses, empathic, strict=True) for index in found]
    frequency = [sum(levels[m] >= min_level for levels in carried) for m in range(len(MECHANISMS))]
    targets = []
    for response, found in zip(responses, empathic, strict=True):
        for start, stop in _runs(response, found, max_sentences, max_words, own_experience):
            levels = [max(column) for column in zip(*response.levels[start:stop], strict=True)]
            strongest = max(range(len(MECHANISMS)), key=lambda m: (levels[m], -frequency[m]))
            name, level = MECHANISMS[strongest], levels[strongest]
            targets.append(Target(response, start, stop, name, level, sum(levels), found))
    return targets


def _runs(
    response: AnnotatedResponse, indices: frozenset[int], max_sentences: int, max_words: int, own_experience: bool
) -> list[tuple[int, int]]:
    """Start and end of the runs of adjacent sentences that the limits allow, from left to right."""
    runs: list[tuple[int, int]] = []
    words = [len(sentence.split()) for sentence in response.split.sentences]
    apart = [not own_experience and speaks_of_itself(sentence) for sentence in response.split.sentences]
    for index in sorted(indices):
        start, stop = runs[-1] if runs else (-1, -1)
        fits = index - start < max_sentences and sum(words[start : index + 1]) <= max_words
        if index == stop and fits and apart[index] == apart[start]:
            runs[-1] = (start, index + 1)
        else:
            runs.append((index, index + 1))
    return runs


def neutral_sentences(responses: Sequence[AnnotatedResponse], max_words: int) -> list[tuple[str, str]]:
    """Usable sentences of responses without empathy, each with its response's id."""
    return [
        (response.example.response_id, sentence)
        for response in responses
        if response.empathy < NEUTRAL_EMPATHY
        for sentence, levels in zip(response.split.sentences, response.levels, strict=True)
        if max(levels) < MIN_LEVEL and not why_unusable(sentence, MIN_WORDS, max_words)
    ]


def draft_edits(
    targets: Sequence[Target], neutral: Sequence[tuple[str, str]], env: EnvConfig, rng: np.random.Generator
) -> tuple[list[Draft], list[Draft]]:
    """Each target as an insertion; for a random share, and where nothing else would be left, as a replacement.

    Returns:
        Insert and replace examples, in random order. A target that fits neither is in none of them.
    """
    drafts: dict[PositionKind, list[Draft]] = {PositionKind.INSERT: [], PositionKind.REPLACE: []}
    for row in rng.permutation(len(targets)):
        target = targets[row]
        kinds = [PositionKind.INSERT, PositionKind.REPLACE]
        if rng.random() < REPLACE_SHARE:
            kinds.reverse()
        for kind in kinds:
            example = (
                _insertion(target, env, rng) if kind is PositionKind.INSERT else _replacement(target, neutral, env, rng)
            )
            if example is not None:
                drafts[kind].append(_drafted(example, target.response, target))
                break
    return drafts[PositionKind.INSERT], drafts[PositionKind.REPLACE]


def _insertion(target: Target, env: EnvConfig, rng: np.random.Generator) -> WarmStartExample | None:
    """The response without its empathic sentences, or without this one where no other kind is left."""
    removed = target.empathic
    if len(removed) == len(target.response.levels):
        removed = target.indices
    rest = _without(target.response.split, removed)
    place = target.index - sum(index < target.index for index in removed)
    return _example_at(target, rest, place, PositionKind.INSERT, env, rng)


def _replacement(
    target: Target, neutral: Sequence[tuple[str, str]], env: EnvConfig, rng: np.random.Generator
) -> WarmStartExample | None:
    """The response without its other empathic sentences and with a neutral sentence in the place of this one."""
    filler = _draw_neutral(target, neutral, rng)
    if filler is None:
        return None
    removed = target.empathic - {target.index}
    changed = _without(text.replace_sentence(target.response.split, target.index, filler), removed)
    place = target.index - sum(index < target.index for index in removed)
    return _example_at(target, changed, place, PositionKind.REPLACE, env, rng)


def _without(split: text.SplitText, removed: frozenset[int]) -> text.SplitText:
    for index in sorted(removed, reverse=True):
        split = text.remove_sentence(split, index)
    return split


def _draw_neutral(target: Target, neutral: Sequence[tuple[str, str]], rng: np.random.Generator) -> str | None:
    """Of some random neutral sentences of other responses, the one nearest to the seeker's words.

    A sentence from nowhere would teach the policy to replace what is off topic, not what lacks empathy.
    """
    if not neutral:
        return None
    drawn = [neutral[row] for row in rng.integers(len(neutral), size=NEUTRAL_DRAWS)]
    others = [sentence for response_id, sentence in drawn if response_id != target.response.example.response_id]
    seeker = _long_words(target.response.example.seeker_post)
    return max(others, key=lambda sentence: len(_long_words(sentence) & seeker), default=None)


def _long_words(post: str) -> frozenset[str]:
    return frozenset(word for word in post.casefold().split() if len(word) > MIN_WORDS)


def _example_at(
    target: Target, split: text.SplitText, place: int, kind: PositionKind, env: EnvConfig, rng: np.random.Generator
) -> WarmStartExample | None:
    """The window that holds a place of the changed response, and the edit that puts the target there.

    None when the changed response has no sentence left, or falls into other sentences when it is cut anew.
    """
    start_state = rewriting.reset(replace(target.response.example, response_post=text.join(split)), env)
    if not split.sentences or start_state.current.sentences != split.sentences:
        return None
    start = min(place, len(split.sentences) - 1) // env.window * env.window
    # A gap between two windows belongs to both.
    if kind is PositionKind.INSERT and 0 < place == start and rng.random() < 0.5:
        start -= env.window
    state = _observe_window(start_state, start, env)
    position = encode_position(Position(kind, place - start), env.window)
    return WarmStartExample(state, EditAction(position, text.clean_sentence(target.sentence)))


def _observe_window(state: rewriting.EpisodeState, start: int, env: EnvConfig) -> RewriteState:
    noop = EditAction(noop_position(env.window))
    while state.window_start < start:
        state = rewriting.step(state, noop, env)
    return rewriting.observe(state)


def draft_noops(responses: Sequence[AnnotatedResponse], env: EnvConfig, rng: np.random.Generator) -> list[Draft]:
    """A random window of each response that is empathic already, in random order."""
    empathic = [response for response in responses if response.empathy >= NOOP_EMPATHY]
    action = EditAction(noop_position(env.window))
    drafts = []
    for row in rng.permutation(len(empathic)):
        response = empathic[row]
        start = int(rng.integers(-(-len(response.split.sentences) // env.window))) * env.window
        state = _observe_window(rewriting.reset(response.example, env), start, env)
        drafts.append(_drafted(WarmStartExample(state, action), response))
    return drafts


def _drafted(example: WarmStartExample, response: AnnotatedResponse, target: Target | None = None) -> Draft:
    origin = response.example
    if target is None:
        return Draft(example, origin.seeker_id, origin.response_id)
    return Draft(example, origin.seeker_id, origin.response_id, target.mechanism, target.level, target.total)


def _choose_edits(inserts: list[Draft], replaces: list[Draft], settings: WarmStartConfig) -> list[Draft]:
    if settings.noop_fraction == 1.0:
        return []
    wanted = len(inserts) + len(replaces)
    if settings.max_examples is not None:
        wanted = min(wanted, round(settings.max_examples * (1.0 - settings.noop_fraction)))
    chosen = _balanced(inserts)[: wanted - min(len(replaces), round(REPLACE_SHARE * wanted))]
    of_each_insert = REPLACE_SHARE / (1.0 - REPLACE_SHARE)
    return chosen + _balanced(replaces)[: round(of_each_insert * len(chosen))]


def _balanced(drafts: list[Draft]) -> list[Draft]:
    """The drafts ordered so that any beginning is balanced over mechanisms and, within each, over positions."""
    mechanisms = [
        interleaved(
            [
                sorted(cell, key=lambda draft: -draft.total)
                for cell in grouped(group, key=lambda draft: draft.example.action.position)
            ]
        )
        for group in grouped(drafts, key=lambda draft: draft.mechanism)
    ]
    return interleaved(mechanisms)


def _noop_count(edits: int, settings: WarmStartConfig) -> int | None:
    """How many no-ops make up their share beside the edits; None for all there are."""
    if settings.noop_fraction == 1.0:
        return settings.max_examples
    return round(edits * settings.noop_fraction / (1.0 - settings.noop_fraction))


def _kinds(drafts: Sequence[Draft], env: EnvConfig) -> tuple[int, int]:
    """How many drafts insert and how many replace."""
    kinds = [decode_position(draft.example.action.position, env.window).kind for draft in drafts]
    return kinds.count(PositionKind.INSERT), kinds.count(PositionKind.REPLACE)
