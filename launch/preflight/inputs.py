"""What a command reads: which inputs it uses, and whether the code that loads them will take them.

`doctor`, every `--dry-run` and the start of every command ask the same functions. Loading has a check beside it that
opens what it opens and leaves the weights on the disk, so that nothing here knows a layout of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launch.preflight.check_result import CheckResult
from launch.resources.model_shape import ModelShape, is_built_on_use, read_shape
from partner_rl.config.inputs import NamedInput
from partner_rl.config.paths import Kind
from partner_rl.config.schema import RunConfig
from partner_rl.models.embedded import EMBEDDED
from partner_rl.models.random_models import RANDOM_MODELS
from partner_rl.models.sources import find_model
from partner_rl.types import PartnerError

if TYPE_CHECKING:
    from launch.preflight.facts import Facts


@dataclass(frozen=True, slots=True)
class ModelFact:
    """A pretrained model or a checkpoint that the configuration names.

    Attributes:
        key: The key, or the option, that names it.
        state: Whether it is there; `on use` is built without a download.
        problem: Why it can never be used, in one line; empty otherwise.
        shape: Its sizes, where they are known.
        download: Bytes that fetching it would transfer, where they are known.
    """

    key: str
    name: str
    state: Literal["present", "on use", "absent"]
    problem: str = ""
    shape: ModelShape | None = None
    download: int | None = None


def option_fact(option: str, kind: Kind, name: Path | str, config: RunConfig | None = None) -> ModelFact:
    """An input that an option names."""
    return input_fact(NamedInput(option, kind, str(name)), config or RunConfig())


def input_fact(named: NamedInput, config: RunConfig) -> ModelFact:
    """An input, looked at without fetching it and without reading a weight."""
    check = partial(_check, named.kind, config)
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

    `check` raises a PartnerError for a folder that its use would fail with; None for any use.
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


def _check(kind: Kind, config: RunConfig, path: Path) -> None:
    """Asks the code that loads such an input whether it would; it is imported here because it loads torch.

    Raises:
        PartnerError: It would not.
    """
    match kind:
        case Kind.BASE_POLICY | Kind.POLICY:
            from partner_rl.policy.pretrained import check_policy

            check_policy(path, config.policy, config.env.window)
        case Kind.LANGUAGE_MODEL | Kind.SEQ2SEQ:
            from partner_rl.models.loading import load_tokenizer, open_causal_lm

            load_tokenizer(path)
            open_causal_lm(path)
        case Kind.ENCODER:
            from partner_rl.models.loading import load_tokenizer, open_encoder

            load_tokenizer(path)
            open_encoder(path)
        case Kind.EMPATHY:
            from rewards.empathy import EmpathyBuilder

            EmpathyBuilder(path, config.rewards.empathy.score).check()
        case Kind.COHERENCE:
            from rewards.coherence_model import CoherenceClassifier

            CoherenceClassifier.check(path)
        case Kind.JUDGE:
            from partner_rl.evaluation.judge import check_judge

            check_judge(path, config.models.cache)
        case Kind.TOPIC:
            from partner_rl.curation.topic import TopicFilter

            TopicFilter.check(path)
        case Kind.EXAMPLES:
            from partner_rl.warmstart.dataset import iter_warmstart_examples

            next(iter_warmstart_examples(path, config.env.window))


def check_models(facts: Facts) -> Iterator[CheckResult]:
    """Models and checkpoints that the configuration names."""
    for model in facts.models:
        yield model_result(model)


def model_result(model: ModelFact) -> CheckResult:
    """Whether a model is there, has to be fetched, or can never be used."""
    what = f"{model.key}: {model.name}"
    if model.problem:
        return CheckResult("models", "problem", f"{what}: {model.problem}", f"correct {model.key}")
    if model.state == "absent":
        size = "" if model.download is None else f", {model.download / 2**20:.0f} MiB to fetch"
        pull = f"`partner-rl models pull {model.name}`" if model.name.startswith("pypi:") else "starting online once"
        return CheckResult(
            "models", "warning", f"{what} is not in the cache{size}", f"it is fetched on first use, or by {pull}"
        )
    numbers = "" if model.shape is None else f", {_short(model.shape.parameters)} parameters"
    return CheckResult(
        "models", "ok", f"{what} ({'built on first use' if model.state == 'on use' else 'present'}{numbers})"
    )


def _short(count: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
