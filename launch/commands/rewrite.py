"""`partner-rl rewrite`: a trained policy on one pair or on a file of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launch.console import beside, err, out, progress
from launch.options import with_dry_run
from launch.preflight.command_plan import begin, stage_plan
from launch.preflight.inputs import option_fact
from launch.run_folder.folder import RunFolder
from launch.run_folder.record import CONFIG_FILE
from partner_rl.config.paths import Kind
from partner_rl.config.schema import EnvConfig, RunConfig
from partner_rl.config.section import MAX_SEED
from partner_rl.storage.outputs import OutputFile, check_outputs
from partner_rl.types import Example, PartnerError

if TYPE_CHECKING:
    from partner_rl.data.records import Reject
    from partner_rl.rewriter import Rewrite, RewriteError


@dataclass(frozen=True, slots=True)
class _Model:
    """What to rewrite with: the policy's folder, and the run that it belongs to, if any."""

    folder: Path
    run: RunFolder | None
    config: RunConfig


@with_dry_run
def command(
    model: Annotated[Path, typer.Option(help="A run folder or an exported policy.")],
    seeker: Annotated[str | None, typer.Option(help="The seeker's post.", show_default=False)] = None,
    response: Annotated[str | None, typer.Option(help="The response to rewrite.", show_default=False)] = None,
    input: Annotated[
        Path | None, typer.Option(help="Pairs: .jsonl, .csv, .tsv or .parquet.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write JSONL.", show_default=False)] = None,
    scores: Annotated[bool, typer.Option(help="Score the rewrites with the run's reward models.")] = True,
    greedy: Annotated[bool, typer.Option(help="Take the likeliest edit instead of sampling one.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Decides what is sampled.")] = 0,
) -> None:
    """Rewrite one response, or a file of them.

    Example: `partner-rl rewrite --model runs/first --seeker "I failed again." --response "Try harder."`
    """
    chosen = _find_model(model)
    single = seeker is not None and response is not None
    if single == (input is not None) or (input is None) != (output is None) or (seeker is None) != (response is None):
        raise PartnerError("give either --seeker and --response, or --input and --output")
    if output is not None:
        check_outputs([OutputFile(output)], [input, model])
    files = [option_fact("--model", Kind.POLICY, chosen.folder, chosen.config)]
    writes = {} if output is None else {output: "rewrites, one line a pair"}
    begin(stage_plan(writes, source=None if input is None else str(input), files=files))
    if single:
        assert seeker is not None
        assert response is not None
        _rewrite_one(chosen, Example("seeker", "response", seeker, response), scores, greedy, seed)
    else:
        assert input is not None
        assert output is not None
        _rewrite_file(chosen, input, output, scores, greedy, seed)


def _find_model(path: Path) -> _Model:
    from partner_rl.policy.pretrained import read_metadata
    from partner_rl.storage.artefact import MARK

    if (path / CONFIG_FILE).is_file():
        run, config = RunFolder.open(path)
        if not run.export.is_dir():
            raise PartnerError(f"{path} has no export/: finish its training with `{run.resume_command}`")
        return _Model(run.export, run, config)
    if not (path / MARK).is_file():
        raise PartnerError(f"{path} is neither a run folder nor an exported policy (no config.yaml, no {MARK})")
    window, settings = read_metadata(path)
    return _Model(path, None, RunConfig(env=EnvConfig(window=window), policy=settings))


def _rewrite_one(model: _Model, pair: Example, scores: bool, greedy: bool, seed: int) -> None:
    from partner_rl.evaluation.report import marked_response
    from partner_rl.rewriter import RewriteError

    (result,) = _rewrites(model, [pair], greedy, seed)
    if isinstance(result, RewriteError):
        raise PartnerError(result.message)
    out.print(marked_response(result), soft_wrap=True)
    if scores and model.run is not None:
        breakdown = _scored(model, [result])[0]
        err.print(", ".join(f"{name} {value:+.3f}" for name, value in breakdown.items()))


def _rewrite_file(model: _Model, source: Path, output: Path, scores: bool, greedy: bool, seed: int) -> None:
    """One output line an input row, in order: a rewrite or an error."""
    from launch.training.phases import write_jsonl
    from partner_rl.data.readers import iter_rows
    from partner_rl.data.records import Remark
    from partner_rl.rewriter import Rewrite

    with progress("Reading the pairs") as report:
        read = iter_rows(str(source), model.config.data.max_post_characters, report)
        rows = [row for row in read if not isinstance(row, Remark)]
    results = iter(_rewrites(model, [row for row in rows if isinstance(row, Example)], greedy, seed))
    outcomes = [next(results) if isinstance(row, Example) else row for row in rows]
    rewrites = [outcome for outcome in outcomes if isinstance(outcome, Rewrite)]
    scored = iter(_scored(model, rewrites) if scores and model.run is not None else [None] * len(rewrites))
    write_jsonl([_record(outcome, scored) for outcome in outcomes], output)
    failed = len(outcomes) - len(rewrites)
    said = f"{len(rewrites)} of {len(outcomes)} pairs rewritten, {failed} with an error: {output}"
    beside(output).print(said, soft_wrap=True)


def _record(outcome: Rewrite | RewriteError | Reject, scored: Iterator[dict[str, float] | None]) -> dict[str, Any]:
    from launch.training.phases import rewrite_record
    from partner_rl.rewriter import Rewrite, RewriteError

    if isinstance(outcome, Rewrite):
        return rewrite_record(outcome, next(scored))
    if isinstance(outcome, RewriteError):
        posts = {"seeker_post": outcome.example.seeker_post, "response_post": outcome.example.response_post}
        return {**posts, "error": outcome.message}
    return {"line": outcome.line, "error": outcome.reason}


def _rewrites(model: _Model, pairs: Sequence[Example], greedy: bool, seed: int) -> list[Rewrite | RewriteError]:
    from launch.resources.session import place_on_this_machine
    from launch.training.phases import exported_policy
    from partner_rl.policy.generate import Sampling
    from partner_rl.rewriter import Rewriter

    place_on_this_machine(model.config)
    settings = model.config.evaluation
    sampling = Sampling.greedy() if greedy else Sampling(settings.temperature, settings.top_p, settings.top_k)
    policy = exported_policy(model.folder, model.config)
    rewriter = Rewriter(policy, model.config.env, sampling, seed, settings.batch_size)
    with progress("Rewriting") as report:
        return rewriter.rewrite(pairs, report)


def _scored(model: _Model, rewrites: Sequence[Rewrite]) -> list[dict[str, float]]:
    """The reward of each rewrite and its components, computed in this process."""
    from rewards.local import LocalRewards
    from rewards.registry import active_components

    assert model.run is not None
    rewards = LocalRewards(active_components(model.config, model.run.path))
    weights, size = model.config.rewards.weights(), model.config.evaluation.batch_size
    scored: list[dict[str, float]] = []
    with progress("Scoring") as report:
        for start in range(0, len(rewrites), size):
            breakdowns = rewards.score([rewrite.request for rewrite in rewrites[start : start + size]])
            scored += [{"total": b.weighed(weights).total, **b.raw} for b in breakdowns]
            report(len(scored), len(rewrites))
    return scored
