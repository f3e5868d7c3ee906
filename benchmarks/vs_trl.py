"""Episodes a second and memory beside TRL's GRPOTrainer on the same work, and the share of what the machine can do.

How to run:
    pip install 'partner-rl[bench]'
    python -m benchmarks.vs_trl --json vs_trl.json

Both sides train every weight of the same model with AdamW on the same prompts, with as many samples of each, as many
tokens in every sample and as many threads. Each has a process of its own that stays alive; rounds alternate, and the
side whose turn it is not waits for a message. The first round of each is not counted. What differs, because the
methods differ: ours also draws the position of the sentence, a token more; a round of ours includes what RLlib does
around the training step.

Equal token counts are enforced and checked in every round. Ours cannot draw the end token (nor the no-op, which has no
sentence); TRL's generation gets `min_new_tokens`, which forbids the end token until the last one.

Results to expect: on two CPU cores several times TRL's episodes a second with a fraction of its memory.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from benchmarks.command import aligned_table, run_command, where
from benchmarks.work import Workload
from launch.console import out, progress, set_up_logging
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from benchmarks.sides import Round
    from rewards.pool import ClientSpec

NAME: Final = "python -m benchmarks.vs_trl"
RATIO_TARGETS: Final = {"free": 6.0, "scorers": 4.0}
"""Times as many episodes a second as TRL, by kind of reward."""
MEMORY_TARGET: Final = 0.5
"""Largest share of TRL's peak memory."""
ROOFLINE_TARGET: Final = 0.6
"""Least share of what a large matrix product reaches."""


@dataclass(frozen=True)
class Comparison:
    """The measurements with one kind of reward.

    Attributes:
        reward: `free` or `scorers`.
        ours: Our counted rounds.
        trl: TRL's, each taken right after ours of the same index.
        ours_mib: Our peak memory, MiB (`process` and `tree`).
        trl_mib: TRL's.
        facts: FLOPs of our iteration and FLOPs a second of a matrix product.
    """

    reward: str
    ours: tuple[Round, ...]
    trl: tuple[Round, ...]
    ours_mib: Mapping[str, float]
    trl_mib: Mapping[str, float]
    facts: Mapping[str, float]

    @property
    def ratios(self) -> list[float]:
        """Our episodes a second over TRL's, of each pair of rounds."""
        return [rate(a) / rate(b) for a, b in zip(self.ours, self.trl, strict=True)]

    @property
    def memory_share(self) -> float:
        """Our peak memory over TRL's, with all that each side started."""
        return self.ours_mib["tree"] / self.trl_mib["tree"]

    @property
    def roofline(self) -> float:
        """FLOPs that an iteration needs, over those of as many seconds of matrix products; the median round."""
        seconds = median(r.seconds for r in self.ours)
        return self.facts["iteration_flops"] / (seconds * self.facts["gemm_flops_per_second"])


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and how it was met.

    Attributes:
        text: What was asked for.
        found: The figure.
        reached: Whether it is good enough.
    """

    text: str
    found: str
    reached: bool


def rate(done: Round) -> float:
    """Episodes a second of a round."""
    return done.episodes / done.seconds


def command(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration keys.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here too.", show_default=False)] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds of each side.")] = 5,
    reward: Annotated[Literal["free", "scorers", "both"], typer.Option(help="Which rewards to measure with.")] = "both",
    threads: Annotated[int | None, typer.Option(min=1, help="Torch threads of each side; default: all cores.")] = None,
    model: Annotated[str, typer.Option(help="The policy, as in models.policy.")] = "pypi:smollm2-135m-instruct",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts in a round.")] = 4,
    samples: Annotated[int, typer.Option(min=2, help="Samples of each, K.")] = 8,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 100,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a sample.")] = 24,
    trl_batch: Annotated[
        int | None, typer.Option(min=1, help="Episodes in a pass of TRL's update; default: all of a round.")
    ] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Compute type of both sides.")] = "float32",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="`auto` takes a GPU if any.")] = "auto",
    run: Annotated[Path | None, typer.Option(help="Use the reward models of this run.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of both sides.")] = 0,
) -> None:
    """Measure episodes a second and memory beside TRL's GRPOTrainer.

    Without `--run` the empathy and coherence classifiers are untrained, which takes as long to compute.

    Example: `python -m benchmarks.vs_trl --rounds 3 --reward free`
    """
    set_up_logging(logging.WARNING)
    if importlib.util.find_spec("trl") is None:
        raise PartnerError("TRL is not installed: pip install 'partner-rl[bench]'")
    if trl_batch is not None and (prompts * samples) % trl_batch:
        raise PartnerError(f"--trl-batch {trl_batch} does not divide the {prompts * samples} episodes of a round")
    from launch.resources.plan import machine_cores

    work = Workload(
        model=model,
        groups=prompts,
        samples=samples,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        dtype=dtype,
        device=chosen_device(device),
        threads=threads or machine_cores(),
        seed=seed,
        overrides=tuple(overrides or ()),
    )
    kinds = ("free", "scorers") if reward == "both" else (reward,)
    batch = trl_batch or work.episodes
    comparisons = [compare(work, kind, rounds, run, batch) for kind in kinds]
    content = report(work, batch, run, comparisons)
    show(comparisons, content)
    if json is not None:
        from partner_rl.storage.atomic import write_json

        write_json(json, content, allow_nan=False)


def chosen_device(device: str) -> str:
    """`cpu` or `cuda`.

    Raises:
        PartnerError: A GPU is asked for, and there is none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise PartnerError("--device cuda, but torch sees no GPU: leave it out, or install a CUDA build of torch")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def compare(work: Workload, reward: str, rounds: int, run: Path | None, trl_batch: int) -> Comparison:
    """Measures both sides with one kind of reward.

    Args:
        work: The work of a round.
        reward: `free` or `scorers`.
        rounds: Counted rounds of each side.
        run: The run whose reward models to use.
        trl_batch: Episodes of a pass of TRL's update.

    Raises:
        PartnerError: A side fails, or samples another number of tokens.
    """
    from benchmarks.sides import Task, side
    from benchmarks.workload import run_config
    from partner_rl.models.sources import resolve

    cache = run_config(work).models.cache_dir
    with progress(f"Loading {work.model}") as report_model:
        folder = str(resolve(work.model, None if cache is None else Path(cache).expanduser(), report_model).absolute())
    with ExitStack() as stack:
        scorers, address = stack.enter_context(_shared_scorers(work, run)) if reward == "scorers" else (None, None)
        task = Task(work, folder, scorers, address, trl_batch)
        ours = stack.enter_context(side("PARTNER-RL", "benchmarks.our_side", task))
        trl = stack.enter_context(side("TRL", "benchmarks.trl_side", task))
        with progress("Starting both sides") as report_start:
            for number, started in enumerate((ours, trl)):
                report_start(number, 2)
                started.answer()
            report_start(2, 2)
        done: dict[str, list[Round]] = {"ours": [], "trl": []}
        with progress(f"Rounds with {'a free reward' if reward == 'free' else 'the four scorers'}") as report_rounds:
            for number in range(rounds + 1):
                report_rounds(number, rounds + 1)
                done["ours"].append(ours.ask("round"))
                done["trl"].append(trl.ask("round"))
                _check_equal(done["ours"][-1], done["trl"][-1])
            report_rounds(rounds + 1, rounds + 1)
        # Before the matrix products, which take memory too.
        memory = ours.peak_mib(), trl.peak_mib()
        facts = ours.ask("facts")
    # The first round allocates memory and chooses kernels.
    return Comparison(reward, tuple(done["ours"][1:]), tuple(done["trl"][1:]), *memory, facts)


@contextmanager
def _shared_scorers(work: Workload, run: Path | None) -> Iterator[tuple[ClientSpec, str]]:
    """Reward actors that both sides ask: what a client needs to know, and the address of their Ray."""
    import ray

    from benchmarks.scorers import scorer_folder, scorer_pools
    from benchmarks.workload import run_config
    from launch.resources.session import place_on_this_machine, ray_session
    from partner_rl.cluster.local_ray import on_loopback

    config = run_config(work, _base(run))
    with scorer_folder(run, config) as folder:
        config, plan = place_on_this_machine(config)
        # The sides, which are started in the block, look for that Ray on loopback too.
        with ray_session(config, plan), scorer_pools(config, folder, plan) as pools, on_loopback():
            yield pools.spec, ray.get_runtime_context().gcs_address


def _base(run: Path | None) -> str:
    """The configuration that says how rewards are computed."""
    from launch.run_folder.folder import RunFolder

    return "embedded" if run is None else str(RunFolder.open(run)[0].config_file)


def _check_equal(ours: Round, trl: Round) -> None:
    mine, theirs = ((r.episodes, r.prompt_tokens, r.new_tokens, r.threads) for r in (ours, trl))
    if mine != theirs:
        raise PartnerError(
            f"the sides did unequal work in a round (episodes, prompt tokens, new tokens, threads): {mine} and {theirs}"
        )


def verdicts(comparisons: Sequence[Comparison]) -> list[Verdict]:
    """Every target with what was found."""
    found = []
    for c in comparisons:
        kind = "free reward" if c.reward == "free" else "four scorers"
        ratio, target = median(c.ratios), RATIO_TARGETS[c.reward]
        found.append(Verdict(f"{kind}: at least {target:g} times TRL's episodes/s", f"{ratio:.2f}", ratio >= target))
        share = c.memory_share
        text = f"{kind}: at most {MEMORY_TARGET:.0%} of TRL's peak memory"
        found.append(Verdict(text, f"{share:.0%}", share <= MEMORY_TARGET))
        if c.reward == "free":
            text = f"{kind}: at least {ROOFLINE_TARGET:.0%} of the FLOP/s of large matrix products"
            found.append(Verdict(text, f"{c.roofline:.0%}", c.roofline >= ROOFLINE_TARGET))
    return found


def report(work: Workload, trl_batch: int, run: Path | None, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The figures with all that they depend on, JSON-able."""
    from benchmarks.workload import run_config

    settings = asdict(work) | {"model": work.model if ":" in work.model else Path(work.model).name}
    return {
        **where(("trl", "datasets")),
        "workload": settings | {"trl_batch": trl_batch, "weights": "all", "optimizer": "AdamW"},
        "rewards": {
            "models": "untrained classifiers" if run is None else "of a run",
            **run_config(work, _base(run)).rewards.model_dump(include={"max_tokens", "num_cpus", "replicas"}),
        },
        "comparisons": [
            {
                "reward": c.reward,
                "ours": [asdict(done) for done in c.ours],
                "trl": [asdict(done) for done in c.trl],
                "ratios": c.ratios,
                "peak_mib": {"ours": dict(c.ours_mib), "trl": dict(c.trl_mib), "share": c.memory_share},
                "roofline": {**c.facts, "share": c.roofline},
            }
            for c in comparisons
        ],
        "targets": [asdict(verdict) for verdict in verdicts(comparisons)],
    }


def results_table(comparisons: Sequence[Comparison]) -> str:
    """The figures, in Markdown."""
    columns = ("reward", "side", "episodes/s (min to max)", "ratio (min to max)", "seconds", "peak MiB", "of it others")
    rows = []
    for c in comparisons:
        for name, rounds, memory in (("ours", c.ours, c.ours_mib), ("TRL", c.trl, c.trl_mib)):
            ratio = spread(c.ratios) if name == "ours" else "1"
            others = memory["tree"] - memory["process"]
            seconds = median(done.seconds for done in rounds)
            cells = (
                c.reward,
                name,
                spread([rate(done) for done in rounds]),
                ratio,
                f"{seconds:.2f}",
                f"{memory['tree']:,.0f}",
                f"{others:,.0f}",
            )
            rows.append(cells)
    return aligned_table(columns, rows)


def phases_table(comparisons: Sequence[Comparison]) -> str:
    """Where the time of our rounds goes, in seconds; Markdown."""
    names = list(comparisons[0].ours[0].phases)
    columns = ("reward", *names, "other", "share of the GEMM's FLOP/s", "GEMM GFLOP/s")
    rows = []
    for c in comparisons:
        parts = {name: median(done.phases[name] for done in c.ours) for name in names}
        other = median(done.seconds - sum(done.phases.values()) for done in c.ours)
        peak = c.facts["gemm_flops_per_second"] / 1e9
        seconds = (f"{value:.2f}" for value in parts.values())
        rows.append((c.reward, *seconds, f"{other:.2f}", f"{c.roofline:.0%}", f"{peak:,.0f}"))
    return aligned_table(columns, rows)


def spread(values: Sequence[float]) -> str:
    """The median with the least and the greatest."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def show(comparisons: Sequence[Comparison], content: Mapping[str, Any]) -> None:
    """Prints tables, targets and on what the figures were taken."""
    work, device = content["workload"], content["device"]
    out.print(
        f"{work['model']}, {work['dtype']}, {work['groups']} prompts of {work['prompt_tokens']} tokens × K "
        f"{work['samples']} × {work['new_tokens']} new tokens, all weights trained; {work['threads']} threads, "
        f"{', '.join(device['gpus']) if work['device'] == 'cuda' else device['cpu']}; "
        f"TRL {content['versions'].get('trl')}, torch {content['versions']['torch']}; medians of "
        f"{len(comparisons[0].ours)} rounds\n",
        soft_wrap=True,
    )
    out.print(results_table(comparisons), soft_wrap=True, markup=False)
    out.print(phases_table(comparisons), soft_wrap=True, markup=False)
    for verdict in verdicts(comparisons):
        mark = "reached" if verdict.reached else "missed"
        out.print(f"- {mark}: {verdict.text}; found {verdict.found}", soft_wrap=True)


if __name__ == "__main__":
    run_command(command, NAME)
