"""`partner-rl judge score`: the held-out judge's levels of a file of pairs, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

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

CHUNK_ROWS: Final = 64
"""Rows that are judged together and written at once: what bounds the memory."""
_DIGITS: Final = 4


@with_dry_run
def command(
    model: Annotated[Path, typer.Option("--model", help="A judge's folder.")],
    input: Annotated[Path, typer.Option("--input", help="Pairs: .csv, .tsv, .jsonl or .parquet.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write JSONL, one line a row.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration keys.", show_default=False)
    ] = None,
    preset: Annotated[
        str, typer.Option("--preset", "--config", "-c", help="A preset's name or a YAML file.")
    ] = "embedded",
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
    """Judges the rows chunk by chunk into a file that appears when it is whole.

    Returns:
        How many rows were judged, and how many are errors.

    Raises:
        PartnerError: No row can be judged, or writing fails.
    """
    from partner_rl.data.readers import no_pairs_message
    from partner_rl.data.records import Reject
    from partner_rl.data.rewrites import iter_rewritten

    judged, rejects = 0, list[Reject]()
    rows = enumerate(iter_rewritten(str(input), limit, report), start=1)
    with text_when_whole(output) as file:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            rejects += [row for _, row in chunk if isinstance(row, Reject)]
            for record in _records(judge, chunk):
                file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
                judged += "error" not in record
        if not judged:
            raise PartnerError(no_pairs_message(str(input), rejects))
    return judged, len(rejects)


def _records(judge: Judge, chunk: Sequence[tuple[int, RewrittenPair | Reject]]) -> Iterator[Mapping[str, Any]]:
    """One JSON object a row, in order: levels of the response, and of its rewriting with the change."""
    from partner_rl.data.records import Reject

    pairs = [row for _, row in chunk if not isinstance(row, Reject)]
    texts = [(pair.example.seeker_post, pair.example.response_post) for pair in pairs]
    rewritten = [
        (pair.example.seeker_post, pair.rewritten_response) for pair in pairs if pair.rewritten_response is not None
    ]
    levels = iter(judge.levels([*texts, *rewritten]).tolist()) if texts else iter([])
    of_responses = iter(list(islice(levels, len(texts))))
    for number, row in chunk:
        if isinstance(row, Reject):
            yield {"row": number, "line": row.line, "error": row.reason}
            continue
        ids = {"seeker_id": row.example.seeker_id, "response_id": row.example.response_id}
        before = next(of_responses)
        record: dict[str, Any] = {"row": number, "ids": ids, "response": _named(before)}
        if row.rewritten_response is not None:
            after = next(levels)
            change = [new - old for new, old in zip(after, before, strict=True)]
            record |= {"rewritten": _named(after), "change": _named(change)}
        yield record


def _named(levels: Sequence[float]) -> dict[str, float]:
    """Mechanism → level, and the total."""
    named = {name: round(level, _DIGITS) for name, level in zip(MECHANISMS, levels, strict=True)}
    return {**named, "total": round(sum(levels), _DIGITS)}
