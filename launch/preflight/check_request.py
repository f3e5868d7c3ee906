"""Which facts a command's checks are about: the inputs that it uses, and what it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from launch.preflight.inputs import ModelFact, input_fact, option_fact
from launch.resources.memory import ENCODER, POLICY
from partner_rl.config.inputs import NamedInput, named_inputs
from partner_rl.config.paths import Kind
from partner_rl.config.schema import RunConfig

if TYPE_CHECKING:
    from launch.run_folder.evaluated import EvaluatedRun
    from launch.run_folder.folder import RunFolder

DATA: Final = "data.source"
EXAMPLES: Final = "warmstart.data"
WARM_START: Final = "warmstart.checkpoint"
JUDGE: Final = "evaluation.judge"
SEQ2SEQ: Final = "evaluation.seq2seq"
EMPATHY: Final = "rewards.empathy.checkpoint"
EXPORT: Final = "export"
"""Stands in the place of a key for the policy of a run that has ended."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """Which facts a command is about.

    Attributes:
        keys: Keys of the inputs that it uses, where the configuration names some.
        files: Inputs that its options name.
        needs_labels: Whether it learns from labels, unless the configuration names what was learned.
        tracks: Whether it writes to W&B.
        is_run: Whether it is a whole training run, which fills a run folder.
        scores_all: Whether it scores reward components that weigh nothing, too.
        output: The folder that receives its results; None for `runs_dir`.
    """

    keys: frozenset[str] = frozenset()
    files: tuple[ModelFact, ...] = ()
    needs_labels: bool = True
    tracks: bool = True
    is_run: bool = True
    scores_all: bool = False
    output: Path | None = None

    @property
    def reads_data(self) -> bool:
        """Whether it reads `data.source`."""
        return DATA in self.keys


def run_request(
    config: RunConfig, *, evaluates: bool = False, resumed: RunFolder | None = None, output: Path | None = None
) -> CheckRequest:
    """A training run."""
    keys = {DATA, WARM_START} | reward_keys(config, scores_all=evaluates)
    if evaluates or None in (config.rewards.empathy.checkpoint, config.rewards.coherence.checkpoint):
        keys |= {ENCODER}
    if config.warmstart.checkpoint is None and not (resumed is not None and resumed.warm_start.is_dir()):
        keys |= {POLICY, EXAMPLES}
    if config.guards.judge_every is not None:
        keys |= {JUDGE}
    return CheckRequest(frozenset(keys), scores_all=evaluates, output=output)


def doctor_request(config: RunConfig) -> CheckRequest:
    """A training run, and whatever else the configuration names for its evaluation."""
    return CheckRequest(run_request(config, evaluates=True).keys | {JUDGE, SEQ2SEQ})


def warm_start_request(config: RunConfig) -> CheckRequest:
    """A warm start by itself, which measures rewrites where a classifier is named."""
    keys = {POLICY, EXAMPLES, EMPATHY}
    if config.warmstart.data is None or config.rewards.empathy.checkpoint is not None:
        keys |= {DATA}
    return CheckRequest(frozenset(keys), tracks=False, is_run=False)


def training_request(key: str) -> CheckRequest:
    """The training of one model.

    The key names the model that it starts from.
    """
    return CheckRequest(frozenset({key, DATA} | ({EXAMPLES} if key == POLICY else set())), tracks=False, is_run=False)


def scoring_request(config: RunConfig, names: Iterable[str], run: Path | None) -> CheckRequest:
    """Texts that reward models score."""
    names = tuple(names)
    files = () if run is None else own_classifiers(config, run, names)
    keys = reward_keys(config, names)
    return CheckRequest(keys - {DATA}, files, needs_labels=False, tracks=False, is_run=False)


def evaluation_request(runs: Sequence[EvaluatedRun], baselines: Sequence[str]) -> CheckRequest:
    """An evaluation of finished runs.

    The first run's pairs and reward models are used for all.
    """
    from launch.run_folder.evaluated import warm_starts

    first = runs[0]
    policies = [(EXPORT, run.folder.export, run) for run in runs]
    policies += [(name, folder, run) for name, (folder, run) in warm_starts(runs).items()]
    files = [option_fact(name, Kind.POLICY, folder, run.config) for name, folder, run in policies]
    keys = {DATA, ENCODER, JUDGE} | reward_keys(first.config)
    keys |= ({POLICY} if baselines else set()) | ({SEQ2SEQ} if "seq2seq" in baselines else set())
    own = own_classifiers(first.config, first.folder.path, ("empathy", "coherence"))
    return CheckRequest(frozenset(keys), (*files, *own), needs_labels=False, is_run=False)


def own_classifiers(config: RunConfig, run: Path, names: Iterable[str]) -> tuple[ModelFact, ...]:
    """The classifiers that a run has trained, where its configuration names none.

    Components without a classifier are passed over.
    """
    from rewards.registry import trained_folder

    kinds = {"empathy": Kind.EMPATHY, "coherence": Kind.COHERENCE}
    wanted = [name for name in names if name in kinds and getattr(config.rewards, name).checkpoint is None]
    return tuple(option_fact(f"rewards/{name}", kinds[name], trained_folder(run, name), config) for name in wanted)


def reward_keys(config: RunConfig, names: Iterable[str] | None = None, *, scores_all: bool = True) -> frozenset[str]:
    """Keys of the inputs of reward components.

    Args:
        config: The configuration.
        names: The components; None for those that an evaluation scores.
        scores_all: Those that weigh nothing, too; otherwise those that a reward is made of.
    """
    from rewards.registry import COMPONENTS, input_keys

    if names is None:
        sections = {name: getattr(config.rewards, name) for name in COMPONENTS}
        names = [name for name, one in sections.items() if (one.is_scored if scores_all else one.is_active)]
    return frozenset(key for name in names for key in input_keys(config, name))


def inputs_of_all(configs: Iterable[RunConfig]) -> Iterator[tuple[RunConfig, CheckRequest]]:
    """Of runs that are evaluated those that name an input which none before has named, and what they read."""
    seen = set[NamedInput]()
    for config in configs:
        request = run_request(config, evaluates=True)
        named = {one for one in named_inputs(config) if one.key in request.keys}
        if not named <= seen:
            seen |= named
            yield config, request


def used_inputs(config: RunConfig, request: CheckRequest) -> tuple[NamedInput, ...]:
    """The inputs that a command uses and a configuration names, but for the corpus."""
    return tuple(one for one in named_inputs(config) if one.key in request.keys and one.kind is not Kind.CORPUS)


def model_facts(config: RunConfig, request: CheckRequest) -> tuple[ModelFact, ...]:
    """The inputs that a command loads, but for the corpus."""
    return (*(input_fact(named, config) for named in used_inputs(config, request)), *request.files)
