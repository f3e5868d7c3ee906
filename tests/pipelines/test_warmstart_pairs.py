"""Warm-start examples from files: which sentences count, how they are balanced, what the folder holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs import rewriting
from launch.cli import main
from partner_rl.config.schema import EnvConfig
from partner_rl.data.pair_schema import batch_from_examples, write_parquet
from partner_rl.pipelines.warmstart_candidates import CandidateSettings, Extractor, refuse_unlabelled
from partner_rl.pipelines.warmstart_pairs import CANDIDATES, Balance, choose
from partner_rl.positions import PositionKind, decode_position, noop_position, num_positions
from partner_rl.types import MECHANISMS, EditAction, Example, MechanismLabel, PartnerError, RewriteState
from partner_rl.warmstart.pairs import WarmStartExample
from rewards.empathy_model import EmpathyPrediction, MechanismPrediction
from tests.helpers.artefacts import read_warmstart_examples

WINDOW = 3
RECIPE = CandidateSettings(window=WINDOW)
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


def labelled(name: str, sentences: Sequence[str], levels: Sequence[int], rationales: Sequence[str]) -> Example:
    first, second, third = (
        MechanismLabel(level, (rationale,) if level else ())
        for level, rationale in zip(levels, rationales, strict=True)
    )
    return Example(f"s{name}", f"r{name}", "I feel alone in this town.", " ".join(sentences), (first, second, third))


def corpus() -> list[Example]:
    """Many of the first mechanism in front; each mechanism at each place; plain responses; empathic ones."""
    examples = []
    places = [(0, 0)] * 150 + list(product(range(3), range(4))) * 4
    for number, (mechanism, place) in enumerate(places):
        plain = [PLAIN[(number + i) % 4] for i in range(3)]
        sentence = EMPATHIC[mechanism].replace(".", f" {number}.").replace("?", f" {number}?")
        levels, rationales = [0, 0, 0], ["", "", ""]
        levels[mechanism], rationales[mechanism] = 1 + number % 2, sentence
        examples.append(labelled(str(number), [*plain[:place], sentence, *plain[place:]], levels, rationales))
    examples += [labelled(f"plain{i}", PLAIN[i:], (0, 0, 0), ("", "", "")) for i in range(4)]
    examples += [labelled(f"warm{i}", EMPATHIC, (2, 1, 2), EMPATHIC) for i in range(30)]
    return [examples[row] for row in np.random.default_rng(0).permutation(len(examples))]


def table_of(examples: Sequence[Example]) -> pa.Table:
    return pa.Table.from_batches([batch_from_examples(examples)])


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def of_row(row: dict[str, object]) -> WarmStartExample:
    state = RewriteState(str(row["seeker_post"]), tuple(row["span"]))  # type: ignore[arg-type]
    return WarmStartExample(state, EditAction(int(str(row["position"])), str(row["sentence"])))


def edited(example: WarmStartExample) -> tuple[str, ...]:
    """The window after the example's edit, by the environment itself."""
    env = EnvConfig(window=WINDOW)
    pair = Example("s", "r", example.state.seeker_post, " ".join(example.state.span))
    return rewriting.step(rewriting.reset(pair, env), example.action, env).current.sentences


def test_a_candidate_s_edit_brings_the_sentence_back() -> None:
    examples = corpus()
    table, counts = Extractor(RECIPE, None)(table_of(examples))
    texts = [example.response_post for example in examples]
    rows = table.to_pylist()
    inserts = [row for row in rows if row["kind"] == "insert"]
    assert len(inserts) > 100
    assert all(any(" ".join(edited(of_row(row))) in text for text in texts) for row in inserts)
    assert {row["mechanism"] for row in inserts} == set(MECHANISMS)
    assert {tuple(row["span"]) for row in rows if row["kind"] == "noop"} == {EMPATHIC}
    assert counts["responses/used"] == len(examples)
    assert len(set(table["key"].to_pylist())) == len(rows)


def test_extraction_depends_on_the_seed_alone() -> None:
    examples = corpus()[:60]
    first, again, other = (
        Extractor(CandidateSettings(window=WINDOW, seed=seed), None)(table_of(examples))[0] for seed in (3, 3, 4)
    )
    assert first.equals(again)
    assert not set(first["key"].to_pylist()) & set(other["key"].to_pylist())


def prediction(level: float, spans: tuple[tuple[int, int], ...]) -> EmpathyPrediction:
    none = MechanismPrediction(0, 0.0, (1.0, 0.0, 0.0), ())
    return MechanismPrediction(round(level), level, (1.0 - level / 2, 0.0, level / 2), spans), none, none


def test_the_classifier_scores_sentences_and_its_rationales_check_them() -> None:
    """Scores by a word of the sentence; in the whole response the rationale is at 'inside'."""
    strength = {"strong": 1.8, "weak": 1.2, "little": 0.4}
    parts = [
        "This one is weak inside of it.",
        "This one is weak outside of it.",
        "This one is strong outside of it.",
        "This one has little inside of it.",
        "We moved to another town in spring.",
    ]
    response = " ".join(parts)

    def predict(pairs: Sequence[tuple[str, str]]) -> list[EmpathyPrediction]:
        whole = tuple((response.index(part), response.index(part) + len(part)) for part in (parts[0], parts[3]))
        return [
            prediction(2.0, whole)
            if post == response
            else prediction(next((value for word, value in strength.items() if word in post), 0.0), ())
            for _, post in pairs
        ]

    example = Example("s", "r", "Help me.", response)
    table, counts = Extractor(CandidateSettings(window=5, min_level=1.0), predict)(table_of([example]))
    assert set(table["sentence"].to_pylist()) == {parts[0], parts[2]}
    prefix = f"check/{MECHANISMS[0]}/"
    found = {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}
    assert sorted(found.values()) == [1, 1, 1, 1]
    assert counts["empathic/emotional_reactions"] == 2


def test_dropped_sentences_are_counted_with_the_reason() -> None:
    sentences = ["Sorry.", "I am sorry, see https://example.org for it.", "I am sorry " + "so " * 40 + "much."]
    examples = [labelled(str(i), [PLAIN[0], one], (2, 0, 0), (one, "", "")) for i, one in enumerate(sentences)]
    examples.append(labelled("alone", [EMPATHIC[0]], (2, 0, 0), (EMPATHIC[0], "", "")))
    examples.append(Example("s", "unlabelled", "Help.", EMPATHIC[0]))
    table, counts = Extractor(RECIPE, None)(table_of(examples))
    assert counts["dropped/too short"] == counts["dropped/too long"] == 1
    assert counts["dropped/web address or forum name"] == 1
    assert counts["responses/without labels"] == 1
    # There is no neutral sentence to put in its place, and nothing is left around it.
    assert counts["dropped/no sentence would be left"] == 1
    assert table.num_rows == 0


def test_sentences_about_their_writer_are_examples_only_on_request() -> None:
    own = "I went through the same last year."
    example = labelled("own", [PLAIN[0], own, EMPATHIC[0]], (2, 1, 0), (EMPATHIC[0], own, ""))
    table, counts = Extractor(replace(RECIPE, own_experience=False), None)(table_of([example]))
    assert table["sentence"].to_pylist() == [EMPATHIC[0]]
    assert counts["dropped/experience of its writer"] == 1
    table, counts = Extractor(RECIPE, None)(table_of([example]))
    assert set(table["sentence"].to_pylist()) == {EMPATHIC[0], own}
    assert not counts["dropped/experience of its writer"]


def test_the_smallest_keys_of_each_cell_are_chosen_and_repeated_ones_counted_once() -> None:
    window = 2
    # Numbers of cells: 6 positions; the first mechanism's insertions at 0, and no-ops.
    first, noop = num_positions(window), noop_position(window)
    codes = np.array([first] * 6 + [noop] * 3, np.int16)
    keys = np.array([50, 10, 40, 10, 30, 20, 7, 9, 8], np.uint64)
    choice = choose(codes, keys, window, Balance(max_examples=4, noop_fraction=0.25))
    assert choice.keys.tolist() == [7, 10, 20, 30]
    assert choice.repeated == 1
    assert sorted(choice.before.values()) == [3, 5]
    assert sorted(choice.after.values()) == [1, 3]


@pytest.fixture(scope="module")
def made(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The corpus in two files, and the examples that the real command makes of it."""
    folder = tmp_path_factory.mktemp("pairs")
    examples = corpus()
    write_parquet(iter(examples[:150]), folder / "in" / "a.parquet")
    write_parquet(iter(examples[150:]), folder / "in" / "b.parquet")
    options = ["--window", WINDOW, "--max-examples", 60, "--noop-fraction", 0.1, "--workers", 2]
    assert run("data", "warmstart-pairs", folder / "in", folder / "out", *options) == 0
    return folder / "in", folder / "out"


def test_the_command_fills_the_limit_in_balance(made: tuple[Path, Path]) -> None:
    examples = read_warmstart_examples(made[1], WINDOW)
    assert len(examples) == 60
    kinds = Counter(decode_position(example.action.position, WINDOW).kind for example in examples)
    assert kinds[PositionKind.NOOP] == 6
    assert kinds[PositionKind.REPLACE] == 8
    inserts = Counter(example.action.position for example in examples if example.action.position <= WINDOW)
    assert set(inserts) == {0, 1, 2, 3}
    assert max(inserts.values()) <= 2 * min(inserts.values())
    report = json.loads((made[1] / "report.json").read_text())
    mechanisms = {name: report["examples"]["by_mechanism"][name] for name in MECHANISMS}
    assert max(mechanisms.values()) - min(mechanisms.values()) <= 2
    assert report["candidates"]["by_mechanism"]["emotional_reactions"] > 150
    assert report["examples"]["all"] == sum(report["files"].values()) == 60


def test_the_page_shows_examples_and_the_json_file_does_not(made: tuple[Path, Path]) -> None:
    page = (made[1] / "report.md").read_text()
    assert page.count("```text") == 20
    assert any(sentence[:20] in page for sentence in PLAIN)
    numbers = (made[1] / "report.json").read_text()
    assert not any(sentence[:12] in numbers for sentence in (*PLAIN, *EMPATHIC, "I feel alone"))
    assert (made[1] / "report.png").read_bytes().startswith(b"\x89PNG")
    assert not list(made[1].glob(".*"))


def test_another_limit_is_refused_and_then_balanced_anew_from_the_same_candidates(
    made: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = made
    stamps = {path: path.stat().st_mtime_ns for path in (output / CANDIDATES).glob("*.parquet")}
    options = ["--window", WINDOW, "--max-examples", 30]
    assert run("data", "warmstart-pairs", source, output, *options) == 1
    assert "made with max-examples=60, now it is 30" in capsys.readouterr().err
    assert len(read_warmstart_examples(output)) == 60
    assert run("data", "warmstart-pairs", source, output, *options, "--overwrite") == 0
    assert len(read_warmstart_examples(output)) == 30
    assert stamps == {path: path.stat().st_mtime_ns for path in (output / CANDIDATES).glob("*.parquet")}
    (output / "foreign.parquet").write_bytes(b"")
    assert run("data", "warmstart-pairs", source, output, *options, "--overwrite") == 1
    assert "files of something else (foreign.parquet)" in capsys.readouterr().err
    (output / "foreign.parquet").unlink()


@pytest.mark.reported
def test_pairs_of_another_writer_yield_the_same_examples(tmp_path: Path) -> None:
    examples = corpus()[:60]
    table = table_of(examples)
    columns = {}
    for name in reversed(table.column_names):
        column = table[name].combine_chunks()
        if name.endswith("_rationales"):
            column = pa.array([None if texts is None else "|".join(texts) for texts in column.to_pylist()])
        kind = pa.int64() if name.endswith("_level") else pa.large_string()
        columns[name.replace("_", " ").title()] = column.cast(kind)
    other = pa.table(columns)
    assert Extractor(RECIPE, None)(other)[0].equals(Extractor(RECIPE, None)(table)[0])
    pq.write_table(other, tmp_path / "other.parquet")
    refuse_unlabelled(tmp_path / "other.parquet")
    pq.write_table(other.select(["Seeker Post", "Response Post"]), tmp_path / "bare.parquet")
    with pytest.raises(PartnerError, match="holds no labelled pair: give --model"):
        refuse_unlabelled(tmp_path / "bare.parquet")


def test_pairs_without_labels_need_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.parquet"
    unlabelled = [Example(f"s{i}", f"r{i}", "Help.", EMPATHIC[0]) for i in range(3)]
    write_parquet(iter(unlabelled), path)
    assert run("data", "warmstart-pairs", path, tmp_path / "out") == 1
    assert "no labelled pair: give --model" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    write_parquet(iter([*unlabelled, corpus()[0]]), path)
    refuse_unlabelled(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(PartnerError, match="truncated"):
        refuse_unlabelled(path)


def test_the_columns_of_candidates_are_those_of_examples_and_a_key(made: tuple[Path, Path]) -> None:
    candidate = next((made[1] / CANDIDATES).glob("*.parquet"))
    example = next(made[1].glob("*.parquet"))
    assert pq.read_schema(candidate).names == [*pq.read_schema(example).names, "key"]
