"""Tests of the supervised examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest

from envs import rewriting, text
from partner_rl.config.schema import EnvConfig, WarmStartConfig
from partner_rl.positions import PositionKind, decode_position
from partner_rl.types import Example, MechanismLabel
from partner_rl.warmstart.annotate import annotate, why_unusable
from partner_rl.warmstart.pairs import PairCounts, WarmStartExample, make_pairs

ENV = EnvConfig(window=3, max_edits=1)
NONE = MechanismLabel(0)

EMPATHIC = (
    "I am so sorry that this happened.",
    "That must feel very lonely at night.",
    "What has the last week been like?",
)
PLAIN = (
    "My train was late this morning.",
    "There is a form on the second page.",
    "We moved to another town in spring.",
    "The shop opens at nine on weekdays.",
)


def labelled(name: str, sentences: Sequence[str], levels: tuple[int, int, int], rationales: Sequence[str]) -> Example:
    labels = [
        MechanismLabel(level, (rationale,) if level else ())
        for level, rationale in zip(levels, rationales, strict=True)
    ]
    return Example(f"s{name}", f"r{name}", "I feel alone in this town.", " ".join(sentences), tuple(labels))  # type: ignore[arg-type]


def corpus() -> list[Example]:
    """Each mechanism's sentence at each place of a response of three plain ones, plain responses, empathic ones."""
    examples = []
    for number, (mechanism, place, repeat) in enumerate(product(range(3), range(4), range(4))):
        plain = [PLAIN[(repeat + i) % 4] for i in range(3)]
        sentence = EMPATHIC[mechanism].replace(".", f" {number}.").replace("?", f" {number}?")
        levels, rationales = [0, 0, 0], ["", "", ""]
        levels[mechanism], rationales[mechanism] = 1 + repeat % 2, sentence
        examples.append(labelled(str(number), [*plain[:place], sentence, *plain[place:]], tuple(levels), rationales))  # type: ignore[arg-type]
    examples += [labelled(f"plain{i}", PLAIN[i:], (0, 0, 0), ("", "", "")) for i in range(4)]
    examples += [labelled(f"warm{i}", EMPATHIC, (2, 1, 2), EMPATHIC) for i in range(20)]
    return examples


def rebuilt(example: WarmStartExample) -> tuple[str, ...]:
    """The window's sentences after the example's edit, by the environment itself."""
    window = Example("s", "r", example.state.seeker_post, " ".join(example.state.span))
    state = rewriting.step(rewriting.reset(window, ENV), example.action, ENV)
    return state.current.sentences


def kind(example: WarmStartExample) -> PositionKind:
    return decode_position(example.action.position, ENV.window).kind


def test_a_removed_sentence_comes_back_at_its_place() -> None:
    response = (PLAIN[0], EMPATHIC[0], PLAIN[1])
    example = labelled("1", response, (2, 0, 0), (EMPATHIC[0], "", ""))
    pairs, counts = make_pairs([example], ENV, WarmStartConfig(noop_fraction=0.0), seed=0)
    assert [rebuilt(pair) for pair in pairs] == [response]
    assert pairs[0].state.span == (PLAIN[0], PLAIN[1])
    assert counts.inserts == 1
    assert [pair.action.position for pair in pairs] == [1]


def test_other_empathic_sentences_are_taken_out_too_unless_nothing_were_left() -> None:
    levels, rationales = (2, 0, 2), (EMPATHIC[0], "", EMPATHIC[2])
    with_plain = labelled("1", (EMPATHIC[0], PLAIN[0], EMPATHIC[2]), levels, rationales)
    without_plain = labelled("2", (EMPATHIC[0], EMPATHIC[2]), levels, rationales)
    settings = WarmStartConfig(noop_fraction=0.0)
    first, _ = make_pairs([with_plain], ENV, settings, seed=1)
    assert {pair.state.span for pair in first} == {(PLAIN[0],)}
    assert {pair.action.position for pair in first} == {0, 1}
    second, _ = make_pairs([without_plain], ENV, settings, seed=1)
    assert {pair.state.span for pair in second} == {(EMPATHIC[0],), (EMPATHIC[2],)}


def test_every_example_is_valid_and_its_edit_restores_a_real_neighbourhood() -> None:
    examples = corpus()
    pairs, counts = make_pairs(examples, ENV, WarmStartConfig(noop_fraction=0.1), seed=0)
    responses = [text.split(example.response_post).sentences for example in examples]
    for pair in pairs:
        assert 0 < len(pair.state.span) <= ENV.window
        if kind(pair) is PositionKind.INSERT:
            after = set(rebuilt(pair))
            assert any(after <= set(response) for response in responses)
    assert counts.inserts + counts.replaces + counts.noops == len(pairs)
    assert counts.noops == pytest.approx(0.1 * len(pairs), abs=1)
    assert 0.05 * len(pairs) < counts.replaces <= 0.15 * len(pairs)


def test_a_replace_example_puts_the_sentence_in_the_place_of_a_neutral_one() -> None:
    pairs, _ = make_pairs(corpus(), ENV, WarmStartConfig(noop_fraction=0.0), seed=0)
    replaces = [pair for pair in pairs if kind(pair) is PositionKind.REPLACE]
    assert replaces
    for pair in replaces:
        index = decode_position(pair.action.position, ENV.window).index
        assert pair.state.span[index] in PLAIN
        assert rebuilt(pair)[index] == pair.action.sentence


def test_a_limit_is_met_balanced_over_mechanisms_and_positions() -> None:
    examples = corpus()
    # Far more of one mechanism, all of it in front.
    examples += [
        labelled(
            f"more{i}",
            (f"I am so sorry about day {i}.", *PLAIN[:3]),
            (1, 0, 0),
            (f"I am so sorry about day {i}.", "", ""),
        )
        for i in range(200)
    ]
    pairs, counts = make_pairs(examples, ENV, WarmStartConfig(noop_fraction=0.1, max_examples=40), seed=0)
    assert len(pairs) == 40
    assert counts.noops == 4
    mechanisms = Counter(
        next(m for m, sentence in enumerate(EMPATHIC) if pair.action.sentence.startswith(sentence[:8]))
        for pair in pairs
        if kind(pair) is not PositionKind.NOOP
    )
    assert max(mechanisms.values()) - min(mechanisms.values()) <= 2
    inserts = Counter(pair.action.position for pair in pairs if kind(pair) is PositionKind.INSERT)
    assert set(inserts) == {0, 1, 2, 3}
    assert max(inserts.values()) <= 2 * min(inserts.values())


def test_the_seed_decides() -> None:
    settings = WarmStartConfig(max_examples=30)
    assert make_pairs(corpus(), ENV, settings, seed=5) == make_pairs(corpus(), ENV, settings, seed=5)
    assert make_pairs(corpus(), ENV, settings, seed=5)[0] != make_pairs(corpus(), ENV, settings, seed=6)[0]


def test_no_ops_show_empathic_responses_and_nothing_else_when_asked_for_alone() -> None:
    pairs, counts = make_pairs(corpus(), ENV, WarmStartConfig(noop_fraction=1.0, max_examples=7), seed=0)
    assert counts.noops == len(pairs) == 7
    assert {pair.state.span for pair in pairs} == {EMPATHIC}
    assert {kind(pair) for pair in pairs} == {PositionKind.NOOP}


def test_the_window_slides_to_the_place() -> None:
    response = [*PLAIN, "This is the fifth plain sentence here.", EMPATHIC[0]]
    example = labelled("1", response, (2, 0, 0), (EMPATHIC[0], "", ""))
    (pair,), _ = make_pairs([example], ENV, WarmStartConfig(noop_fraction=0.0), seed=0)
    assert pair.state.span == tuple(response[3:5])
    assert pair.action.position == 2


def test_unlabelled_responses_are_left_out() -> None:
    example = Example("s", "r", "I am sad.", f"{PLAIN[0]} {EMPATHIC[0]}")
    assert make_pairs([example], ENV, WarmStartConfig(), 0)[0] == []


def test_rationales_mark_the_sentences_they_lie_in() -> None:
    response = f"{PLAIN[0]} {EMPATHIC[0]} {EMPATHIC[1]}"
    spanning = MechanismLabel(2, ("sorry that this happened. That must feel very lonely",))
    (annotated,) = annotate([Example("s", "r", "Help.", response, (spanning, NONE, NONE))])
    assert annotated.levels == ((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (2.0, 0.0, 0.0))
    assert annotated.empathy == 2.0


@pytest.mark.parametrize(
    ("sentence", "usable"),
    [
        ("Too short here.", False),
        ("This one has four words.", True),
        ("See https://example.org for more of it.", False),
        ("Try the page example.com for some help.", False),
        ("You could ask in r/help about it.", False),
        (" ".join(["word"] * 41), False),
    ],
)
def test_targets_are_of_ordinary_length_and_without_addresses(sentence: str, usable: bool) -> None:
    assert (why_unusable(sentence, 4, 40) is None) is usable


def test_adjacent_empathic_sentences_come_back_together() -> None:
    sentences = [EMPATHIC[0], EMPATHIC[2], PLAIN[0], PLAIN[1], EMPATHIC[1]]
    example = labelled("run", sentences, (1, 1, 2), (EMPATHIC[0], EMPATHIC[1], EMPATHIC[2]))
    settings = WarmStartConfig(noop_fraction=0.0)

    def sentences_of(max_sentences: int, max_words: int = 40) -> list[str]:
        pairs, _ = make_pairs([example], ENV, settings, 0, max_words=max_words, max_sentences=max_sentences)
        assert all(EMPATHIC[0] not in pair.state.span for pair in pairs)
        return sorted(pair.action.sentence for pair in pairs)

    assert sentences_of(1) == sorted(EMPATHIC)
    assert sentences_of(3) == sorted([f"{EMPATHIC[0]} {EMPATHIC[2]}", EMPATHIC[1]])
    # 7 + 7 words are more than 13: they stay apart.
    assert sentences_of(3, max_words=13) == sorted(EMPATHIC)


def test_what_speaks_of_its_writer_is_taken_out_and_not_learned() -> None:
    own = "I went through the same last year."
    sentences = [EMPATHIC[0], own, EMPATHIC[2], PLAIN[0], PLAIN[1]]
    example = labelled("own", sentences, (1, 2, 2), (EMPATHIC[0], own, EMPATHIC[2]))

    def made(own_experience: bool) -> tuple[list[WarmStartExample], PairCounts]:
        settings = WarmStartConfig(noop_fraction=0.0, own_experience=own_experience)
        return make_pairs([example], ENV, settings, 0, max_sentences=3)

    pairs, counts = made(True)
    assert [pair.action.sentence for pair in pairs] == [f"{EMPATHIC[0]} {own} {EMPATHIC[2]}"]
    assert counts.unusable_sentences == 0
    pairs, counts = made(False)
    # Its neighbours stay examples, and it stands in no state.
    assert sorted(pair.action.sentence for pair in pairs) == sorted([EMPATHIC[0], EMPATHIC[2]])
    assert all(own not in pair.state.span for pair in pairs)
    assert counts.unusable_sentences == 1
