"""`partner-rl rewards score`: every reward model's raw scores of a file of pairs, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.commands.rewards import choice
from launch.console import beside, progress
from launch.options import with_dry_run
from partner_rl.progress import Progress
from partner_rl.storage.atomic import text_when_whole
from partner_rl.storage.outputs import OutputFile, check_outputs
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig
    from partner_rl.data.rewrites import RewrittenPair
    from partner_rl.evaluation.response_scores import ResponseScores


@with_dry_run
def command(
    input: Annotated[Path, typer.Option(help="Pairs: .csv, .tsv, .jsonl or .parquet.")],
    output: Annotated[Path, typer.Option(help="Where to write JSONL, one line a row.")],
    overrides: choice.OverridesArgument = None,
    only: Annotated[
        str | None, typer.Option(help="Rewards to score, such as empathy,fluency; default: all.", show_default=False)
    ] = None,
    run: choice.RunOption = None,
    empathy: choice.EmpathyOption = None,
    coherence: choice.CoherenceOption = None,
    preset: choice.PresetOption = "embedded",
    with_text: Annotated[bool, typer.Option("--with-text", help="Write the posts too.")] = False,
) -> None:
    """Score the responses of a file of pairs, and their rewritings where there is a column rewritten_response.

    Example: `partner-rl rewards score --input pairs.csv --output scores.jsonl --run runs/first`
    """
    from launch.preflight.check_request import scoring_request
    from launch.preflight.command_plan import begin, scoring_plan
    from partner_rl.config.inputs import input_paths
    from partner_rl.evaluation.response_scores import ResponseScores

    names = choice.chosen_names(only)
    config = _on_this_machine(choice.chosen_config(run, preset, overrides, empathy, coherence))
    components = choice.chosen_components(config, run, names)
    limit = config.data.max_post_characters
    check_outputs([OutputFile(output)], [input, run, *input_paths(config)])
    begin(scoring_plan(config, scoring_request(config, names, run), {output: "scores, one line a row"}, str(input)))
    with progress("Reading the pairs") as report:
        total = _count(input, limit, report)
    scores = ResponseScores(components, config)
    with progress("Scoring") as report:
        scored = _write(scores, input, limit, output, total, with_text, report)
    failed = total - scored
    beside(output).print(f"{scored} of {total} rows scored, {failed} with an error: {output}", soft_wrap=True)


def _on_this_machine(config: RunConfig) -> RunConfig:
    """The configuration with the GPU shared out, if there is one; also sets torch's threads."""
    import torch

    from launch.resources.plan import machine_cores, share_local_gpu

    torch.set_num_threads(config.resources.driver_threads or machine_cores())
    return share_local_gpu(config, torch.cuda.device_count())


def _count(input: Path, limit: int, report: Progress) -> int:
    """Rows of the input, read once before any model is loaded.

    Raises:
        PartnerError: It cannot be read, or no row of it can be scored.
    """
    from partner_rl.data.readers import no_pairs_message
    from partner_rl.data.records import Reject
    from partner_rl.data.rewrites import iter_rewritten

    total, usable, rejects = 0, 0, list[Reject]()
    for row in iter_rewritten(str(input), limit, report):
        total += 1
        usable += not isinstance(row, Reject)
        if isinstance(row, Reject) and not usable:
            # For the message alone, which says how many there are.
            rejects.append(row)
    if not usable:
        raise PartnerError(no_pairs_message(str(input), rejects))
    return total


def _write(
    scores: ResponseScores, input: Path, limit: int, output: Path, total: int, with_text: bool, report: Progress
) -> int:
    """Scores the rows into a file that appears when it is whole.

    Returns:
        How many rows were scored.

    Raises:
        PartnerError: The input has changed since it was counted, no row could be scored, or writing fails.
    """
    from launch.commands.row_scores import row_records
    from partner_rl.data.rewrites import iter_rewritten

    def score(pairs: Sequence[RewrittenPair]) -> Iterator[Mapping[str, Any]]:
        for pair, found in zip(pairs, scores.score(pairs), strict=True):
            yield {**(_texts(pair) if with_text else {}), **found}

    done, scored, first_error = 0, 0, ""
    report(0, total)
    with text_when_whole(output) as file:
        for done, record in enumerate(row_records(iter_rewritten(str(input), limit), score), start=1):
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            scored += "error" not in record
            first_error = first_error or record.get("error", "")
            report(min(done, total), total)
        if done != total:
            raise PartnerError(f"{input} changed while it was read ({total} rows, then {done}): start again")
        if not scored:
            raise PartnerError(f"none of the {total} rows of {input} could be scored; the first: {first_error}")
    return scored


def _texts(row: RewrittenPair) -> dict[str, str]:
    texts = {"seeker_post": row.example.seeker_post, "response_post": row.example.response_post}
    return texts if row.rewritten_response is None else {**texts, "rewritten_response": row.rewritten_response}
