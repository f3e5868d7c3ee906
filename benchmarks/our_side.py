"""The program of our side's process."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.ours import PHASES, build_algorithm, on_gpu, run_iteration
from benchmarks.roofline import gemm_flops_per_second, iteration_flops, shape_of
from benchmarks.sides import Round, Task, serve
from benchmarks.workload import free_reward, make_examples, run_config
from launch.resources.session import place_on_this_machine, ray_session
from partner_rl.algorithm.algorithm import RewriteAlgorithm
from partner_rl.models.loading import load_tokenizer
from rewards.pool import RewardClient


class OurSide:
    """Rounds of the algorithm that `partner-rl train` runs."""

    def __init__(self, algorithm: RewriteAlgorithm, task: Task) -> None:
        self._algorithm = algorithm
        self._task = task
        self._prompts: tuple[int, ...] = ()

    def round(self) -> Round:
        """One iteration: sample, score, advantage, update."""
        figures = run_iteration(self._algorithm, self._task.work)
        self._prompts = figures.prompts
        return Round(
            seconds=figures.seconds["iteration"],
            episodes=figures.episodes,
            prompt_tokens=figures.prompt_tokens,
            new_tokens=figures.new_tokens,
            threads=torch.get_num_threads(),
            phases={phase: figures.seconds[phase] for phase in PHASES},
        )

    def facts(self) -> dict[str, float]:
        """FLOPs of an iteration, and FLOPs a second of a large matrix product."""
        work = self._task.work
        shape = shape_of(self._algorithm.policy_in_driver().model)
        return {
            "iteration_flops": iteration_flops(shape, self._prompts, work.samples, work.new_tokens),
            "gemm_flops_per_second": gemm_flops_per_second(work.device, work.dtype),
        }


def main(connection: Connection, task: Task) -> None:
    """Builds the algorithm and serves rounds.

    With a free reward the side starts a Ray of its own, which counts as its memory; with scorers it joins theirs.
    """
    config = run_config(task.work)
    config = config.model_copy(update={"resources": config.resources.model_copy(update={"address": task.address})})
    examples = make_examples(load_tokenizer(Path(task.folder)), config, task.work.prompt_tokens, task.work.groups)
    config, plan = place_on_this_machine(config)
    if task.scorers is not None:
        # Their actors run already.
        plan = replace(plan, groups=tuple(group for group in plan.groups if not group.name.startswith("reward ")))
    with ray_session(config, plan):
        score = free_reward if task.scorers is None else RewardClient(task.scorers).score
        algorithm = build_algorithm(on_gpu(config), task.folder, examples, score)
        torch.set_num_threads(task.work.threads)
        try:
            connection.send("ready")
            serve(connection, OurSide(algorithm, task))
        finally:
            algorithm.stop()  # type: ignore[no-untyped-call]
