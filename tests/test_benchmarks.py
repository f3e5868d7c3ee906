"""The benchmarks on tiny models: equal work on both sides, formulas by hand, commands through their command line."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest
import torch

from benchmarks import honesty, listener, logprob_gap, roofline, scaling, seeds, vs_trl
from benchmarks.command import numbers, run_command
from benchmarks.sides import MIB, Round, Side, Task, side
from benchmarks.work import Workload
from benchmarks.workload import fixed_length, make_examples, run_config, state_of
from partner_rl.models.loading import load_causal_lm, load_tokenizer
from partner_rl.models.sources import resolve
from partner_rl.policy.prompt import encode_prompt
from partner_rl.policy.vocabulary import ActionVocabulary
from partner_rl.positions import position_mask
from partner_rl.types import Example, MechanismLabel, PartnerError
from tests.helpers.command_line import ROOT, benchmark, partner

ONE_SCORER = [f"rewards.{name}.weight=0" for name in ("empathy", "coherence", "mutual_information")]
TINY = ["models.reward_lm=random:llama", "models.encoder=random:bert", "resources.object_store_mb=100"]


def run_module(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.parametrize("model", ["random:gpt2", "random:llama"])
@pytest.mark.parametrize("tokens", [110, 300])
def test_prompts_are_as_long_as_asked_for_and_a_word_shorter_at_worst(model: str, tokens: int) -> None:
    config = run_config(Workload(model, prompt_tokens=tokens))
    tokenizer = load_tokenizer(resolve(model, None))
    examples = make_examples(tokenizer, config, tokens, 4)
    prompts = [encode_prompt(tokenizer, state_of(e, config), config.policy) for e in examples]
    longest_word = max(len(tokenizer(f" {w}").input_ids) for e in examples for w in e.seeker_post.split())
    assert all(tokens - longest_word - 20 < len(prompt) <= tokens for prompt in prompts)
    assert len({e.seeker_post for e in examples}) == 4


def test_a_prompt_without_room_for_a_post_is_one_clear_error() -> None:
    config = run_config(Workload("random:llama", prompt_tokens=8))
    with pytest.raises(PartnerError, match="no room for a post"):
        make_examples(load_tokenizer(resolve("random:llama", None)), config, 8, 1)


def test_a_fixed_length_vocabulary_never_ends_a_sentence_and_never_leaves_the_response_alone() -> None:
    vocabulary = fixed_length(ActionVocabulary(window=2, first_position_id=10, end_id=3, special_ids=(0, 3)))
    logits = torch.zeros(1, 16)
    logits[0, [3, 15]] = 50.0
    before = logits.clone()
    words = vocabulary.word_logits(logits, 1.0).softmax(-1)
    assert words[0, 3] == 0.0
    assert words[0, 1] == pytest.approx(1 / 8)
    positions = vocabulary.position_logprobs(logits, torch.from_numpy(position_mask(1, 2))[None], 1.0)
    assert positions[0, -1].exp() == 0.0
    assert torch.isfinite(positions[0, -1])
    assert positions[0, 0].exp() == pytest.approx(1 / 3)
    assert torch.equal(logits, before)


def test_the_flops_of_an_iteration_are_those_worked_out_by_hand() -> None:
    shape = roofline.ModelShape(block_weights=10, layers=2, attention_width=3, head_weights=7)
    # Prompt of 2: 40 in blocks, attention to 1 + 2, one row of the head. One sample of 2 tokens: attention to 3 + 4.
    forward = (2 * 10 * 2 + 4 * 2 * 3 * 3 + 2 * 7) + (2 * 2 * (10 + 7) + 4 * 2 * 3 * 7)
    assert roofline.iteration_flops(shape, [2], samples=1, new_tokens=2) == 4 * forward
    assert roofline.iteration_flops(shape, [2, 2], samples=1, new_tokens=2) == 8 * forward


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_shape_of_a_model_counts_every_matrix_once(name: str) -> None:
    model = load_causal_lm(resolve(f"random:{name}", None))
    shape = roofline.shape_of(model)
    embeddings = {model.get_input_embeddings().weight.data_ptr(), model.get_output_embeddings().weight.data_ptr()}
    matrices = [
        p.numel()
        for key, p in model.named_parameters()
        if p.dim() == 2 and p.data_ptr() not in embeddings and "wpe" not in key
    ]
    assert shape.block_weights == sum(matrices)
    assert shape.head_weights == model.get_output_embeddings().weight.numel()


def test_a_large_matrix_product_has_a_plausible_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roofline.GEMM_SIZES, "cpu", (128,))
    assert 1e7 < roofline.gemm_flops_per_second("cpu", "float32") < 1e14


def comparison(reward: str, ours_s: list[float], trl_s: list[float], ours_mib: float) -> vs_trl.Comparison:
    def rounds(seconds: list[float]) -> tuple[Round, ...]:
        return tuple(Round(s, 32, 3200, 768, 2, {"generate": s / 2}) for s in seconds)

    facts = {"iteration_flops": 3e9, "gemm_flops_per_second": 2e9}
    mib = {"process": ours_mib, "tree": ours_mib}
    return vs_trl.Comparison(reward, rounds(ours_s), rounds(trl_s), mib, {"process": 100.0, "tree": 100.0}, facts)


def test_ratios_are_of_pairs_of_rounds_and_targets_are_checked() -> None:
    free = comparison("free", [2.0, 2.0, 4.0], [14.0, 12.0, 24.0], 50.0)
    assert free.ratios == [7.0, 6.0, 6.0]
    assert free.roofline == pytest.approx(0.75)
    assert [v.reached for v in vs_trl.verdicts([free])] == [True, True, True]
    slow = comparison("scorers", [2.0], [7.0], 60.0)
    assert [v.reached for v in vs_trl.verdicts([slow])] == [False, False]


def test_a_comparison_of_unequal_work_is_refused() -> None:
    with pytest.raises(PartnerError, match="unequal work"):
        vs_trl._check_equal(Round(1.0, 32, 3200, 768, 2, {}), Round(1.0, 32, 3200, 768, 1, {}))


def test_a_side_works_when_told_to_and_its_peak_memory_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, seen = Side._look, tmp_path / "seen"

    def look_and_tell(one: Side) -> None:
        """The side holds its memory until it has been looked at, however late that is on a busy machine."""
        look(one)
        if one._others_peak > 60 * MIB:
            seen.touch()

    monkeypatch.setattr(Side, "_look", look_and_tell)
    with side("echo", "tests.helpers.echo_side", Task(Workload("none"), str(seen), None, None, 1)) as echo:
        assert echo.answer() == "ready"
        before = echo.peak_mib()
        # 96 MiB in the side's own process and 64 in one that it starts.
        done = echo.ask("round")
        assert (done.episodes, done.threads) == (96, 1)
        after = echo.peak_mib()
        assert after["process"] - before["process"] > 80
        assert after["tree"] - after["process"] > 60
        pid = int(echo.ask("facts")["pid"])
    assert not psutil.pid_exists(pid)
    assert max(after.values()) < psutil.virtual_memory().total / MIB


@pytest.mark.parametrize(
    ("module", "message"), [("tests.no_such_side", "no_such_side"), ("tests.helpers.echo_side", "eats")]
)
def test_a_side_that_fails_says_whose_it_is_and_why(module: str, message: str) -> None:
    expected = pytest.raises(PartnerError, match=f"side of TRL failed.*{message}")
    with side("TRL", module, Task(Workload("broken"), "", None, None, 1)) as broken, expected:
        broken.answer()


def test_every_table_varies_one_thing() -> None:
    work = Workload("random:llama", groups=2)
    wanted = {"replicas": (1, 2), "env_runners": (0, 2), "samples": (1, 16), "prompt_tokens": (64,)}
    found = scaling.cases(work, wanted)
    assert [(c.table, c.value) for c in found] == [(name, v) for name, values in wanted.items() for v in values]
    assert [scaling.config_of(c).rewards.replicas for c in found] == [1, 2, 1, 1, 1, 1, 1]
    assert [c.env_runners for c in found] == [0, 0, 0, 2, 0, 0, 0]
    assert [c.work.samples for c in found] == [8, 8, 8, 8, 1, 16, 8]
    assert [scaling.config_of(c).algorithm.advantage for c in found][4] == "reinforce"


def test_numbers_of_an_option() -> None:
    assert numbers("--samples", "1, 2,2", 1) == (1, 2)
    assert numbers("--samples", "", 1) == ()
    with pytest.raises(PartnerError, match="at least 1"):
        numbers("--samples", "0", 1)


@pytest.mark.parametrize("module", [vs_trl, scaling])
def test_a_wrong_flag_is_one_line(module: ModuleType) -> None:
    result = benchmark(module, "--wrong")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "--wrong" in result.stderr
    assert "--help" in result.stderr


def test_without_trl_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.command import run_command

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "trl" else find(name, *a))
    with pytest.raises(SystemExit) as status:
        run_command(vs_trl.command, vs_trl.NAME, [])
    assert status.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "pip install 'partner-rl[bench]'" in lines[0]


@pytest.mark.slow
def test_both_sides_do_equal_work_through_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="needs pip install 'partner-rl[bench]'")
    small = ["--prompts", "2", "--samples", "2", "--prompt-tokens", "120", "--new-tokens", "4", "--threads", "1"]
    result = run_module(
        "benchmarks.vs_trl", "--model", "random:llama", "--rounds", "1", "--reward", "scorers", *small,
        "--json", str(tmp_path / "report.json"), *TINY, *ONE_SCORER, PARTNER_RL_DEBUG="1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    (found,) = report["comparisons"]
    assert len(found["ratios"]) == 1
    ours, trl = found["ours"][0], found["trl"][0]
    assert (ours["episodes"], ours["new_tokens"]) == (trl["episodes"], trl["new_tokens"]) == (4, 16)
    assert ours["prompt_tokens"] == trl["prompt_tokens"] > 4 * 100
    assert min(found["peak_mib"]["ours"]["process"], found["peak_mib"]["trl"]["process"]) > 100
    assert {"trl", "torch", "ray"} <= report["versions"].keys()
    assert "missed" in result.stdout or "reached" in result.stdout
    assert "| scorers | TRL" in result.stdout


@pytest.mark.slow
def test_scaling_measures_every_phase_through_the_command_line(commands_share_ray: None, tmp_path: Path) -> None:
    result = benchmark(
        scaling, "--model", "random:llama", "--iterations", "1", "--reward", "free", "--prompts", "2",
        "--new-tokens", "4", "--samples", "1,4", "--prompt-tokens", "", "--env-runners", "1", "--threads", "1",
        "--json", str(tmp_path / "report.json"), *TINY,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [(row["table"], row["value"]) for row in rows] == [("env_runners", 1), ("samples", 1), ("samples", 4)]
    for row in rows:
        assert row["episodes_per_second"] > 0
        assert {"generate", "score", "update", "sync", "other", "iteration"} == row["seconds"].keys()
    assert "| samples, K |" in result.stdout


def test_a_table_over_seeds_has_means_and_ranges() -> None:
    def report(empathy: float, distinct: float) -> dict[str, object]:
        values = {"change_in_empathy": {"value": empathy}, "distinct_sentences": {"value": distinct}}
        return {
            "metrics": {
                "change_in_empathy": {"label": "change in empathy", "better": "higher"},
                "distinct_sentences": {"label": "distinct sentences", "better": "higher"},
                "judge_change": {"label": "change by the judge", "better": "higher"},
            },
            "systems": {name: {"metrics": {} if name == "original" else values} for name in seeds.SYSTEMS},
        }

    columns, rows = seeds.table([report(1.0, 0.5), report(2.0, 0.5), report(1.5, 0.5)])
    assert columns == ["", "original", "template", "warm start", "best of 16", "**RL**"]
    assert rows == [
        ["change in empathy ↑", "–", *["+1.500 (+1.000 to +2.000)"] * 4],
        ["distinct sentences ↑", "–", *["50.0%"] * 4],
    ]


@pytest.mark.slow
def test_the_quickstart_over_seeds_evaluates_them_and_does_nothing_twice(
    finished_run: Path, commands_share_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = []

    def partner_rl(*arguments: str) -> None:
        typed.append(arguments)
        if arguments[0] == "quickstart":
            # Other tests evaluate the finished run.
            without = shutil.ignore_patterns("evaluation", "wandb")
            shutil.copytree(finished_run, tmp_path / "runs" / "quickstart-seed-3", ignore=without)
        else:
            assert partner(*arguments, folder=tmp_path).returncode == 0

    monkeypatch.setattr(seeds, "_partner_rl", partner_rl)
    small = ["--preset", "smoke", "--runs-dir", str(tmp_path / "runs"), "algorithm.iterations=1"]
    first = benchmark(seeds, "--seeds", "3", *small, "--output", str(tmp_path / "seeds.json"))
    assert first.returncode == 0, first.stderr
    names = ["name=quickstart-seed-3", f"runs_dir={tmp_path / 'runs'}", "seed=3"]
    assert typed[0] == ("quickstart", "--preset", "smoke", "algorithm.iterations=1", *names)
    content = json.loads((tmp_path / "seeds.json").read_text())
    assert content["seeds"] == [3]
    assert all(set(systems) == set(seeds.SYSTEMS) for systems in content["systems"])
    assert benchmark(seeds, "--seeds", "3", *small).returncode == 0
    assert [arguments[0] for arguments in typed] == ["quickstart", "evaluate"]
    assert benchmark(seeds, "--seeds", "none").returncode == 1


def test_the_gap_between_sampling_and_training_is_measured_by_model_and_type(tmp_path: Path) -> None:
    found = benchmark(logprob_gap, "--models", "random:llama", "--json", str(tmp_path / "gap.json"))
    assert found.returncode == 0, found.stderr
    rows = json.loads((tmp_path / "gap.json").read_text())
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    assert all(row["within limits"] for row in rows)
    assert float(rows[0]["gap mean"]) < float(rows[1]["gap mean"])
    refused = benchmark(logprob_gap, "--models", "random:llama", "--dtypes", "float16")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


def test_honesty_prints_both_halves_and_counts_in_a_corpus() -> None:
    found = benchmark(honesty, "--errors", "--responses", "sample")
    assert found.returncode == 0, found.stderr
    assert "| development | 333 " in found.stdout
    assert "| held-out    | 333 " in found.stdout
    assert "of the sentences" in found.stdout.splitlines()[-1]


def test_honesty_without_a_corpus_where_one_is_named_is_one_line() -> None:
    found = benchmark(honesty, "--responses", "/no/such/folder")
    assert found.returncode == 1
    assert "/no/such/folder" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rewrites", "real=x.jsonl"], "give NAME=PATH"),
        (["--rewrites", "rl=nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["--split", "dev"], "fewer than 16 posts"),
        (["--split", "all"], "--help"),
    ],
)
def test_the_listener_benchmark_says_what_is_wrong_in_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run_command(listener.command, listener.NAME, [*arguments, *TINY])
    assert end.value.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_the_listener_benchmark_hears_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"seeker_post": f"I lost thing {n}.", "edits": [{"sentence": "Oh no. What now?"}]} for n in range(3)]
    records.append({"seeker_post": "I lost hope.", "edits": []})
    # U+2028 ends a line to `str.splitlines`.
    records[0]["seeker_post"] = "I lost\u2028my way."
    rewrites = tmp_path / "rewrites.jsonl"
    rewrites.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    given = ["--rewrites", f"mine={rewrites}", "--backward", "random:llama", "--backward-responses", "2"]
    with pytest.raises(SystemExit) as end:
        run_command(listener.command, listener.NAME, [*given, "--json", str(tmp_path / "found.json"), *TINY])
    assert not end.value.code
    rows = {(row["kind"], row["listener"]): row for row in json.loads((tmp_path / "found.json").read_text())["rows"]}
    assert set(rows) == {(k, who) for k in ("real", "template", "mine") for who in ("encoder", "backward")}
    assert (rows["mine", "encoder"]["responses"], rows["mine", "encoder"]["sentences"]) == (3, 6)
    assert (rows["mine", "backward"]["responses"], rows["mine", "backward"]["sentences"]) == (2, 4)
    assert all(0.0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1.0 for row in rows.values())
    assert "| real     | encoder" in capsys.readouterr().out
    rewrites.write_text('{"edits": [{"kind": "insert"}]}\n')
    with pytest.raises(PartnerError, match="line 1 is no rewrite"):
        listener.written_in(rewrites)


def test_real_sentences_are_those_with_a_rationale() -> None:
    none = MechanismLabel(0)
    pair = Example("s", "r", "Post.", "I am sorry to hear this. Try tea.", (MechanismLabel(2, ("sorry",)), none, none))
    plain = Example("t", "q", "Other.", "Try some more tea.", (none, none, none))
    assert listener.real_sentences([pair, plain]) == [("Post.", ("I am sorry to hear this.",))]
