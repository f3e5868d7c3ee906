"""What a command reads: which inputs it uses, and whether the code that loads them will take them.

`doctor`, every `--dry-run` and the start of every command ask the same functions. Loading has a check beside it that
opens what it opens and leaves the weights on the disk, so that nothing here knows a layout of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from launch.preflight.facts import Corpus, ModelFact
from launch.resources.memory import ENCODER, POLICY
from launch.resources.model_shape import is_built_on_use, read_shape
from partner_rl.config.inputs import NamedInput, named_inputs
from partner_rl.config.paths import Kind
from partner_rl.config.schema import RunConfig
from partner_rl.data.readers import iter_rows
from partner_rl.data.records import Reject
from partner_rl.models.embedded import EMBEDDED
from partner_rl.models.random_models import RANDOM_MODELS
from partner_rl.models.sources import find_model, resolve
from partner_rl.storage.full_disk import can_be_written
from partner_rl.types import Example, PartnerError

if TYPE_CHECKING:
    from launch.run_folder.evaluated import EvaluatedRun
    from launch.run_folder.folder import RunFolder

FIRST_ROWS: Final = 200
"""Rows of the data that are read, and more where none of them is a pair."""
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
    """A training run.

    Args:
        config: The run.
        evaluates: Whether it evaluates what it has trained, with every reward.
        resumed: The folder of a run that goes on.
        output: Folder of the run folders; None for `runs_dir`.
    """
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

    Args:
        key: Names the model that it starts from.
    """
    return CheckRequest(frozenset({key, DATA} | ({EXAMPLES} if key == POLICY else set())), tracks=False, is_run=False)


def scoring_request(config: RunConfig, names: Iterable[str], run: Path | None) -> CheckRequest:
    """Texts that reward models score.

    Args:
        config: The configuration.
        names: The components.
        run: The run whose classifiers are used, if any.
    """
    names = tuple(names)
    files = () if run is None else own_classifiers(config, run, names)
    keys = reward_keys(config, names)
    return CheckRequest(keys - {DATA}, files, needs_labels=False, tracks=False, is_run=False)


def evaluation_request(runs: Sequence[EvaluatedRun], baselines: Sequence[str]) -> CheckRequest:
    """An evaluation of finished runs.

    Args:
        runs: The runs; the first one's pairs and reward models are used for all.
        baselines: Names of the baselines.
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

    Args:
        config: The run's configuration.
        run: Its folder.
        names: Reward components; those without a classifier are passed over.
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


def require_inputs(config: RunConfig, request: CheckRequest) -> None:
    """Refuses, before anything is computed or written, a command that an input would fail; fetches absent models.

    Args:
        config: The configuration.
        request: What the command is about.

    Raises:
        PartnerError: An input is absent, damaged or of another kind; a model cannot be fetched; there is no such
            device; or run folders cannot be written.
    """
    from launch.resources.device import device_of

    device_of(config)
    folder = request.output or Path(config.runs_dir)
    if request.is_run and not can_be_written(folder):
        raise PartnerError(f"{folder} cannot be written to: name a folder of yours (runs_dir)")
    for named in used_inputs(config, request):
        fact = input_fact(named, config)
        if fact.state == "absent" and not fact.problem:
            from launch.console import progress

            with progress(named.name) as report:
                resolve(named.name, config.models.cache, report)
            fact = input_fact(named, config)
        _require(fact)
    require_files(request.files)
    if request.reads_data:
        corpus = corpus_facts(config, needs_labels=request.needs_labels)
        if corpus.problem:
            raise PartnerError(f"{DATA}: {corpus.problem}")


def require_files(facts: Iterable[ModelFact]) -> None:
    """Refuses, before anything is computed or written, a command that an input which an option names would fail.

    Raises:
        PartnerError: One is absent, damaged or of another kind.
    """
    for fact in facts:
        _require(fact)


def inputs_of_all(configs: Iterable[RunConfig]) -> Iterator[tuple[RunConfig, CheckRequest]]:
    """Of runs that are evaluated those that name an input which none before has named, and what they read.

    Args:
        configs: The runs.
    """
    seen = set[NamedInput]()
    for config in configs:
        request = run_request(config, evaluates=True)
        named = {one for one in named_inputs(config) if one.key in request.keys}
        if not named <= seen:
            seen |= named
            yield config, request


def _require(fact: ModelFact) -> None:
    if fact.problem:
        raise PartnerError(f"{fact.key}: {fact.problem}")


def used_inputs(config: RunConfig, request: CheckRequest) -> tuple[NamedInput, ...]:
    """The inputs that a command uses and a configuration names, but for the corpus."""
    return tuple(one for one in named_inputs(config) if one.key in request.keys and one.kind is not Kind.CORPUS)


def model_facts(config: RunConfig, request: CheckRequest) -> tuple[ModelFact, ...]:
    """The inputs that a command loads, but for the corpus."""
    return (*(input_fact(named, config) for named in used_inputs(config, request)), *request.files)


def option_fact(option: str, kind: Kind, name: Path | str, config: RunConfig | None = None) -> ModelFact:
    """An input that an option names.

    Args:
        option: The option.
        kind: What it is to be.
        name: What it names.
        config: The configuration that it is used with; None for the defaults.
    """
    return input_fact(NamedInput(option, kind, str(name)), config or RunConfig())


def input_fact(named: NamedInput, config: RunConfig) -> ModelFact:
    """An input, looked at without fetching it and without reading a weight.

    Args:
        named: The input.
        config: The configuration that it is used with.
    """

    def check(folder: Path) -> None:
        _CHECKS[named.kind](folder, config)

    if named.kind.is_model:
        return model_fact(named.key, named.name, config.models.cache, check)
    return _fact(named.key, named.name, lambda: _opened(named, check))


def _opened(named: NamedInput, check: Callable[[Path], None]) -> ModelFact:
    path = Path(named.name)
    check(path)
    # The sizes of a policy are what estimates of memory go by.
    return ModelFact(named.key, named.name, "present", shape=read_shape(path) if named.kind is Kind.POLICY else None)


def model_fact(key: str, name: str, cache: Path | None, check: Callable[[Path], None] | None = None) -> ModelFact:
    """A pretrained model, looked for without fetching it.

    Args:
        key: The key or the option that names it.
        name: Its name or folder.
        cache: Cache of converted models; None for the default.
        check: Raises PartnerError for a folder that its use would fail with; None for any use.
    """

    def found() -> ModelFact:
        with _model_folder(name, cache) as folder:
            if folder is None:
                embedded = EMBEDDED.get(name.partition(":")[2])
                return ModelFact(key, name, "absent", download=None if embedded is None else embedded.wheel_bytes)
            if check is not None:
                check(folder)
            is_here = find_model(name, cache) is not None
            return ModelFact(key, name, "present" if is_here else "on use", shape=read_shape(folder))

    return _fact(key, name, found)


def _fact(key: str, name: str, look: Callable[[], ModelFact]) -> ModelFact:
    """What a look at an input finds, or why it can never be used."""
    try:
        return look()
    except PartnerError as error:
        return ModelFact(key, name, "absent", str(error))
    except OSError as error:
        return ModelFact(key, name, "absent", f"cannot be read ({error.strerror or error})")


@contextmanager
def _model_folder(name: str, cache: Path | None) -> Iterator[Path | None]:
    """The folder of a model, for the time of a block; None where it would have to be fetched."""
    folder = find_model(name, cache)
    if folder is None and is_built_on_use(name):
        with tempfile.TemporaryDirectory() as temporary:
            RANDOM_MODELS[name.partition(":")[2]](Path(temporary))
            yield Path(temporary)
    else:
        yield folder


def _check_policy(folder: Path, config: RunConfig) -> None:
    from partner_rl.policy.pretrained import check_policy

    check_policy(folder, config.policy, config.env.window)


def _check_language_model(folder: Path, config: RunConfig) -> None:
    from partner_rl.models.loading import load_tokenizer, open_causal_lm

    load_tokenizer(folder)
    open_causal_lm(folder)


def _check_encoder(folder: Path, config: RunConfig) -> None:
    from partner_rl.models.loading import load_tokenizer, open_encoder

    load_tokenizer(folder)
    open_encoder(folder)


def _check_empathy(folder: Path, config: RunConfig) -> None:
    from rewards.empathy import EmpathyBuilder

    EmpathyBuilder(folder, config.rewards.empathy.score).check()


def _check_coherence(folder: Path, config: RunConfig) -> None:
    from rewards.coherence_model import CoherenceClassifier

    CoherenceClassifier.check(folder)


def _check_judge(folder: Path, config: RunConfig) -> None:
    from partner_rl.evaluation.judge import check_judge

    check_judge(folder, config.models.cache)


def _check_topic(folder: Path, config: RunConfig) -> None:
    from partner_rl.curation.topic import TopicFilter

    TopicFilter.check(folder)


def _check_examples(source: Path, config: RunConfig) -> None:
    from partner_rl.warmstart.dataset import iter_warmstart_examples

    next(iter_warmstart_examples(source, config.env.window))


_CHECKS: Final[Mapping[Kind, Callable[[Path, RunConfig], None]]] = MappingProxyType(
    {
        Kind.BASE_POLICY: _check_policy,
        Kind.LANGUAGE_MODEL: _check_language_model,
        Kind.ENCODER: _check_encoder,
        Kind.POLICY: _check_policy,
        Kind.EMPATHY: _check_empathy,
        Kind.COHERENCE: _check_coherence,
        Kind.JUDGE: _check_judge,
        Kind.SEQ2SEQ: _check_language_model,
        Kind.TOPIC: _check_topic,
        Kind.EXAMPLES: _check_examples,
    }
)
"""What is named → the check of the code that loads it."""


def corpus_facts(config: RunConfig, *, needs_labels: bool) -> Corpus:
    """The first rows of the data; no text of them is kept.

    Args:
        config: The run.
        needs_labels: Whether training learns from labels, unless the configuration names what was learned.
    """
    source = config.data.source
    pairs = rejects = labelled = 0
    try:
        rows = iter_rows(source, config.data.max_post_characters)
        while pairs == 0 and (block := list(islice(rows, FIRST_ROWS))):
            found = [row for row in block if isinstance(row, Example)]
            pairs, labelled = len(found), sum(pair.empathy is not None for pair in found)
            rejects += sum(isinstance(row, Reject) for row in block)
    except PartnerError as error:
        return Corpus(source, problem=str(error))
    except OSError as error:
        return Corpus(source, problem=f"{source} cannot be read ({error.strerror or error})")
    if pairs == 0:
        how = "see `partner-rl data convert`, which lists what is wrong with each row"
        return Corpus(source, rejects=rejects, problem=f"{source} holds no usable pair, {rejects} rows rejected: {how}")
    warmstart = config.warmstart
    learns = config.rewards.empathy.checkpoint is None or (
        warmstart.checkpoint is None and warmstart.data is None and warmstart.epochs > 0
    )
    return Corpus(source, pairs, rejects, labelled, needs_labels=needs_labels and learns)
