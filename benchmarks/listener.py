"""Listener accuracy: how well sentences of several kinds, heard alone, tell the post that they answer.

How to run:
    python -m benchmarks.listener --data data/epitome --backward pypi:smollm2-135m-instruct
    python -m benchmarks.listener --run runs/first --backward models/mi/backward --json listener.json
    python -m benchmarks.listener --data data/epitome --policy warm=models/warm --rewrites rl=rewrites.jsonl

The kinds are what supporters themselves wrote (the empathic sentences of the held-out pairs, by their rationales), the
template's two sentences, and what policies write: those of a run, of a folder (`--policy`), or of a file of rewrites.
For each sentence a listener chooses among 16 posts, as `rewards/listener.py` says; the others are those of the chosen
held-out pairs, the same for every kind. A response counts once, with the mean over its sentences; intervals are 95 %
bootstrap intervals over responses.

Results to expect: real sentences find their post several times as often as chance, 6.25 %; the template does not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from json import loads
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import typer

from benchmarks.command import aligned_table, run_command, where
from launch.console import out
from partner_rl.config.load import load_config
from partner_rl.config.schema import RunConfig
from partner_rl.types import Example, PartnerError
from rewards.listener import CANDIDATES, ListenerScorer, Posts, distinct_posts

NAME: Final = "python -m benchmarks.listener"
REAL: Final = "real"
TEMPLATE: Final = "template"

Spoken = list[tuple[str, tuple[str, ...]]]
"""Responses that something was written into, as (post, the sentences)."""


@dataclass(frozen=True, slots=True)
class Row:
    """How well a listener understands one kind of sentences.

    Attributes:
        kind: Whose sentences.
        listener: Who listens.
        responses: Responses that count.
        sentences: Sentences in them.
        accuracy: Share of the sentences that find their post, a mean over responses.
        low: Lower end of its interval; None for a single response.
        high: Upper end.
        log_probability: Mean log-probability of the true post, nats, at the listener's own temperature.
    """

    kind: str
    listener: str
    responses: int
    sentences: int
    accuracy: float
    low: float | None
    high: float | None
    log_probability: float


def command(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration keys.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="A run: its data, warm start and policy.", show_default=False)
    ] = None,
    preset: Annotated[str, typer.Option(help="Configuration without --run.")] = "embedded",
    data: Annotated[str | None, typer.Option(help="Another corpus: folder or file.", show_default=False)] = None,
    split: Annotated[Literal["test", "dev", "train"], typer.Option(help="Which pairs.")] = "test",
    pairs: Annotated[int, typer.Option(min=CANDIDATES, help="At most this many pairs.")] = 400,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="A policy to sample.", show_default=False)
    ] = None,
    rewrites: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="A rewrites.jsonl.", show_default=False)
    ] = None,
    backward: Annotated[
        str | None, typer.Option(help="A backward model that listens, too: a name or folder.", show_default=False)
    ] = None,
    backward_responses: Annotated[int, typer.Option(min=1, help="It hears at most this many of a kind.")] = 60,
    json: Annotated[Path | None, typer.Option(help="Write the figures here too.", show_default=False)] = None,
) -> None:
    """Measure how often sentences of each kind, heard alone, find their post among 16.

    Example: `python -m benchmarks.listener --data data/epitome --pairs 200`
    """
    from partner_rl.storage.atomic import write_json

    config, policies = _config(run, preset, [*(overrides or []), *([] if data is None else [f"data.source={data}"])])
    policies |= {name: Path(folder) for name, folder in _named("--policy", policy)}
    files = {name: Path(file) for name, file in _named("--rewrites", rewrites)}
    chosen = chosen_pairs(config, split, pairs)
    kinds = {REAL: real_sentences(chosen), TEMPLATE: template_sentences(chosen)}
    kinds |= {name: policy_sentences(name, folder, chosen, config) for name, folder in policies.items()}
    kinds |= {name: written_in(file) for name, file in files.items()}
    posts = distinct_posts(pair.seeker_post for pair in chosen)
    rows = list(measured(kinds, posts, config, backward, backward_responses))
    out.print(table(rows), soft_wrap=True, markup=False)
    about: dict[str, Any] = {"data": config.data.source, "split": split, "pairs": len(chosen), "posts": len(posts)}
    out.print(", ".join(f"{key} {value}" for key, value in {**about, "seed": config.seed}.items()), soft_wrap=True)
    if json is not None:
        write_json(
            json, {**about, "seed": config.seed, "rows": [asdict(row) for row in rows], **where()}, allow_nan=False
        )


def _config(run: Path | None, preset: str, overrides: Sequence[str]) -> tuple[RunConfig, dict[str, Path]]:
    """The configuration, and the run's policies by name."""
    from launch.run_folder.folder import RunFolder
    from partner_rl.evaluation.system import TRAINED, WARM_START

    if run is None:
        return load_config(preset, list(overrides)), {}
    folder = RunFolder.open(run)[0]
    config = load_config(str(folder.config_file), list(overrides))
    warm = config.warmstart.checkpoint
    found = {WARM_START: folder.warm_start if warm is None else Path(warm).expanduser(), TRAINED: folder.export}
    return config, {name: path for name, path in found.items() if path.is_dir()}


def _named(option: str, values: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """The NAME=PATH values of an option.

    Raises:
        PartnerError: One has no name or no path.
    """
    for value in values or ():
        name, _, path = value.partition("=")
        if not name or not path or name in (REAL, TEMPLATE):
            raise PartnerError(f"{option} {value}: give NAME=PATH, with another name than {REAL} and {TEMPLATE}")
        yield name, path


def chosen_pairs(config: RunConfig, split: str, limit: int) -> tuple[Example, ...]:
    """The pairs of a split, at most `limit` of them.

    Raises:
        PartnerError: There are too few to choose among.
    """
    from partner_rl.data.readers import read_examples
    from partner_rl.data.splits import select_pairs, split_examples

    examples = read_examples(config.data.source, config.data.max_post_characters).examples
    chosen = select_pairs(getattr(split_examples(examples, config.data), split), limit, config.data.split_salt)
    if len(distinct_posts(pair.seeker_post for pair in chosen)) < CANDIDATES:
        raise PartnerError(f"the {split} split of {config.data.source} has fewer than {CANDIDATES} posts: take another")
    return chosen


def real_sentences(pairs: Sequence[Example]) -> Spoken:
    """The sentences of labelled responses in which a rationale lies, as a warm start would learn them."""
    from partner_rl.warmstart.annotate import annotate, why_unusable
    from partner_rl.warmstart.pairs import MAX_WORDS, MIN_WORDS, find_targets

    found: dict[Example, list[str]] = defaultdict(list)
    for target in find_targets(annotate(pairs)):
        if not why_unusable(target.sentence, MIN_WORDS, MAX_WORDS):
            found[target.response.example].append(target.sentence)
    return [(pair.seeker_post, tuple(found[pair])) for pair in pairs if pair in found]


def template_sentences(pairs: Sequence[Example]) -> Spoken:
    """The two sentences that the template writes into every response."""
    from partner_rl.evaluation.baselines.template import CLOSING, OPENING

    return [(pair.seeker_post, (OPENING, CLOSING)) for pair in pairs]


def policy_sentences(name: str, folder: Path, pairs: Sequence[Example], config: RunConfig) -> Spoken:
    """What a policy writes into the pairs, sampled as in an evaluation.

    Raises:
        PartnerError: The folder holds no policy.
    """
    from envs.rewriting import written_sentences
    from launch.training.held_out import rewrite_with, sampling_of

    requests = [rewrite.request for rewrite in rewrite_with(name, folder, pairs, config, sampling_of(config))]
    return [(one.seeker_post, written_sentences(one)) for one in requests]


def written_in(file: Path) -> Spoken:
    """What the rewrites of a `rewrites.jsonl` hold that was written.

    Raises:
        PartnerError: It cannot be read, or a line is no rewrite.
    """
    try:
        # Not `splitlines`, which also ends a line at characters that a post may hold.
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise PartnerError(f"cannot read {file}: {error.strerror or error}") from error
    return [_spoken(line, f"{file} line {number}") for number, line in enumerate(lines, start=1) if line]


def _spoken(line: str, place: str) -> tuple[str, tuple[str, ...]]:
    """A rewrite's post and what was written for it."""
    from envs import text

    try:
        record = loads(line)
        written = [str(edit["sentence"]) for edit in record["edits"]]
        return str(record["seeker_post"]), tuple(part for one in written for part in text.split(one).sentences)
    except (ValueError, KeyError, TypeError) as error:
        raise PartnerError(
            f"{place} is no rewrite with its texts: give a run's rewrites.jsonl, not redacted"
        ) from error


def measured(
    kinds: Mapping[str, Spoken], posts: Posts, config: RunConfig, backward: str | None, backward_responses: int
) -> Iterator[Row]:
    """Every kind as each listener understands it.

    Args:
        kinds: Kind → what was written.
        posts: What the listener chooses among.
        config: Names the encoder, tokens and seed.
        backward: The backward model, if one is to listen.
        backward_responses: It hears the first of this many responses of a kind.
    """
    from launch.console import progress
    from launch.resources.device import device_of
    from rewards.listener_models import BACKWARD, ENCODER

    listeners = {"encoder": (ENCODER, config.models.encoder)}
    listeners |= {} if backward is None else {"backward": (BACKWARD, backward)}
    for name, (listener, model) in listeners.items():
        limit = backward_responses if name == "backward" else None
        relate = listener.load(model, config.models.cache, config.rewards.max_tokens, device_of(config))
        scorer = ListenerScorer(relate, posts, CANDIDATES, listener.temperature)
        with progress(f"Listening: {name}") as report:
            for done, (kind, spoken) in enumerate(kinds.items()):
                report(done, len(kinds))
                written = [response for response in spoken if response[1]][:limit]
                if written:
                    yield heard(kind, name, written, scorer, config.seed)


def heard(kind: str, listener: str, spoken: Spoken, scorer: ListenerScorer, seed: int) -> Row:
    """One kind as one listener understands it.

    Args:
        kind: Its name.
        listener: The listener's name.
        spoken: What was written: at least one response, and at least one sentence in each.
        scorer: The listener.
        seed: Decides the resamples of the interval.
    """
    from partner_rl.evaluation.resampling import mean_interval

    items = [(post, sentence) for post, sentences in spoken for sentence in sentences]
    bounds = np.cumsum([len(sentences) for _, sentences in spoken])[:-1]
    means_N2 = np.array([rows.mean(0) for rows in np.split(scorer.score(items).astype(np.float64), bounds)])
    interval = mean_interval(means_N2[:, 1], seed)
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    log_probability, accuracy = (float(x) for x in means_N2.mean(0))
    return Row(kind, listener, len(spoken), len(items), accuracy, low, high, log_probability)


def table(rows: Sequence[Row]) -> str:
    """The figures as Markdown."""
    cells = []
    for row in rows:
        interval = "" if row.low is None or row.high is None else f" ({row.low:.1%}–{row.high:.1%})"
        counts = (str(row.responses), str(row.sentences))
        cells.append((row.kind, row.listener, *counts, f"{row.accuracy:.1%}{interval}", f"{row.log_probability:.2f}"))
    return aligned_table(("kind", "listener", "responses", "sentences", "accuracy", "log p, nats"), cells)


if __name__ == "__main__":
    run_command(command, NAME)
