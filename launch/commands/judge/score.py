"""`partner-rl judge score`: the held-out judge's levels of a file of pairs, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from launch.commands.supervised import OverridesArgument, PresetOption
from launch.console import beside, progress
from launch.options import with_dry_run
from partner_rl.progress import Progress
from partner_rl.storage.atomic import text_when_whole
from partner_rl.storage.outputs import OutputFile, check_outputs
from partner_rl.types import MECHANISMS, PartnerError

if TYPE_CHECKING:
    from partner_rl.data.records import Reject
    from partner_rl.data.rewrites import RewrittenPair
    from partner_rl.evaluation.judge import Judge

_DIGITS: Final = 4


@with_dry_run
def command(
    model: Annotated[Path, typer.Option("--model", help="A judge's folder.")],
    input: Annotated[Path, typer.Option("--input", help="Pairs: .csv, .tsv, .jsonl or .parquet.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write JSONL, one line a row.")],
    overrides: OverridesArgument = None,
    preset: PresetOption = "embedded",
) -> None:
    """Judge the responses of a file of pairs, and their rewritings where there is a column rewritten_response.

    Example: `partner-rl judge score --model models/judge --input pairs.csv --output levels.jsonl`
    """
    import torch

    from launch.preflight.command_plan import begin, stage_plan
    from launch.preflight.inputs import option_fact
    from launch.resources.device import device_of
    from launch.resources.plan import machine_cores
    from partner_rl.config.inputs import input_paths
    from partner_rl.config.load import load_config
    from partner_rl.config.paths import Kind
    from partner_rl.evaluation.judge import load_judge

    config = load_config(preset, overrides or [])
    check_outputs([OutputFile(output)], [input, model, *input_paths(config)])
    files = [option_fact("--model", Kind.JUDGE, model, config)]
    begin(stage_plan({output: "levels, one line a row"}, source=str(input), files=files))
    torch.set_num_threads(config.resources.driver_threads or machine_cores())
    judge = load_judge(model, device_of(config), config.models.cache)
    with progress("Judging") as report:
        judged, failed = _write(judge, input, config.data.max_post_characters, output, report)
    beside(output).print(f"{judged} of {judged + failed} rows judged, {failed} with an error: {output}", soft_wrap=True)


def _write(judge: Judge, input: Path, limit: int, output: Path, report: Progress) -> tuple[int, int]:
    """Judges the rows into a file that appears when it is whole.

    Returns:
        How many rows were judged, and how many are errors.

    Raises:
        PartnerError: No row can be judged, or writing fails.
    """
    from launch.commands.row_scores import row_records
    from partner_rl.data.readers import no_pairs_message
    from partner_rl.data.records import Reject
    from partner_rl.data.rewrites import iter_rewritten

    judged, rejects = 0, list[Reject]()

    def rows() -> Iterator[RewrittenPair | Reject]:
        for row in iter_rewritten(str(input), limit, report):
            if isinstance(row, Reject):
                rejects.append(row)
            yield row

    with text_when_whole(output) as file:
        for record in row_records(rows(), lambda pairs: _judged(judge, pairs)):
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            judged += "error" not in record
        if not judged:
            raise PartnerError(no_pairs_message(str(input), rejects))
    return judged, len(rejects)


def _judged(judge: Judge, pairs: Sequence[RewrittenPair]) -> Iterator[Mapping[str, Any]]:
    """Levels of each response, and of its rewriting with the change."""
    texts = [(pair.example.seeker_post, pair.example.response_post) for pair in pairs]
    rewritten = [
        (pair.example.seeker_post, pair.rewritten_response) for pair in pairs if pair.rewritten_response is not None
    ]
    levels = judge.levels([*texts, *rewritten]).tolist() if texts else []
    of_rewritten = iter(levels[len(texts) :])
    for pair, before in zip(pairs, levels, strict=False):
        record = {"response": _named(before)}
        if pair.rewritten_response is not None:
            after = next(of_rewritten)
            change = [new - old for new, old in zip(after, before, strict=True)]
            record |= {"rewritten": _named(after), "change": _named(change)}
        yield record


def _named(levels: Sequence[float]) -> dict[str, float]:
    """Mechanism → level, and the total."""
    named = {name: round(level, _DIGITS) for name, level in zip(MECHANISMS, levels, strict=True)}
    return {**named, "total": round(sum(levels), _DIGITS)}
