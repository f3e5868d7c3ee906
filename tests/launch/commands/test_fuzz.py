"""Whatever is typed, the command line answers: status 0, 1 or 2, one line for an error, and no input is touched.

Commands are drawn from the command line itself, with every option and argument that it declares; what takes long runs
with `--dry-run`. Values are such as people have typed: names with quotes, markup or commas, numbers beyond all limits,
files of other kinds, folders in the place of files, variables of the environment that name what is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from launch.cli import app, main
from launch.sweep.spec import SweepSpec
from partner_rl.config.describe import describe_fields
from partner_rl.config.load import preset_names

CHEAP = {"data convert", "data stats", "data generate", "config show", "config docs", "models list", "runs list"}
"""Commands that run whole; the others need what they would compute."""

TEXTS = (
    *("", " ", "x", "[red]", "[/]", "a'b", 'a"b', "a, b", "a: b", "#1", "~", "~nobody/x", "-", "--", "null", "nan"),
    *(
        "2024",
        "1e5",
        "é",
        "日本",
        "\u202e",
        "a\nb",
        "a\tb",
        "*",
        "$HOME",
        "%s",
        "{}",
        "{0}",
        "\\",
        "/",
        ".",
        "..",
        "x" * 300,
    ),
)
USUAL_NUMBERS = ("1", "2", "3", "0.5")
NUMBERS = (
    *USUAL_NUMBERS * 6,
    "-1",
    "0",
    "4294967295",
    "4294967296",
    "1e400",
    "-0",
    "nan",
    "inf",
    "1_000",
    "٣",
    "9" * 40,
)
YAML = (
    *TEXTS,
    *NUMBERS,
    "[]",
    "{}",
    "[1, 2]",
    "{a: 1}",
    "true",
    ".nan",
    ".inf",
    "!!python/name:os.system",
    "*a",
    "[",
    "1:30",
)
# Not those of Ray's token: a process that has asked for it once keeps what they said.
ENVIRONMENT = {
    "WANDB_MODE": ("offline", "dryrun", "disabled", "online", "nonsense", ""),
    "WANDB_DISABLED": ("true", "false", ""),
    "WANDB_API_KEY": ("", "x"),
    "HOME": ("/nonexistent", "", "/dev/null"),
    "TMPDIR": ("/nonexistent", "/dev/null", "/tmp/" + "x" * 150),
    "COLUMNS": ("abc", "0", "1", "20", "-5"),
    "TERM": ("dumb", "", "nonsense"),
    "NO_COLOR": ("1",),
    "LANG": ("C", "nonsense"),
    "TZ": ("nonsense", ""),
    "OMP_NUM_THREADS": ("0", "abc"),
    "CUDA_VISIBLE_DEVICES": ("", "7"),
    "RAY_ADDRESS": ("nonsense",),
    "LOCAL_WORLD_SIZE": ("0", "abc"),
    "HF_HOME": ("/dev/null",),
}


@dataclass(frozen=True)
class Option:
    """A parameter of a command."""

    name: str
    flag: str | None
    kind: type
    required: bool
    many: bool


def commands() -> dict[str, list[Option]]:
    """Every command of the command line and what it takes."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield " ".join(words), command
            return
        for name in sorted(command.commands):
            _, inner, _ = command.resolve_command(typer.Context(command), [name])
            yield from walk(inner, (*words, name))

    return {
        words: [
            Option(
                name=parameter.name,
                flag=parameter.opts[0] if parameter.param_type_name == "option" else None,
                kind=bool if getattr(parameter, "is_flag", False) else parameter.type_descriptor.annotation,
                required=parameter.required,
                many=parameter.nargs == -1 or getattr(parameter, "multiple", False),
            )
            for parameter in command.params
        ]
        for words, command in walk(typer.main.get_command(app), ())
    }


COMMANDS = commands()
KEYS = [field.key for field in describe_fields()]
# Looked up by name in a network; a name that is not there takes seconds.
HOSTS = ("127.0.0.1:1", "", "x:y", "127.0.0.1:99999", "http://127.0.0.1:1", "[red]")
PATHS = (
    *("pairs.csv", "pairs.tsv", "pairs.jsonl", "pairs.parquet", "my data #1.csv", "[red].csv", "link.csv", "loop"),
    *("empty.csv", "empty.parquet", "broken.parquet", "latin.csv", "utf16.csv", "half.jsonl", "header.csv"),
    *("folder", "spec.yaml", "list.yaml", "broken.yaml", "mine.yaml", "run", "damaged", "absent", "absent/x"),
    *("out/x.csv", "out/x.parquet", "out/x", "run/config.yaml", "pairs.csv/x", "/dev/null", "/proc/x", "sample"),
)
# A process takes neither NUL nor half a surrogate pair from the shell.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
USUAL_PATHS = {
    **dict.fromkeys(("--model", "--run", "--resume", "--rewards", "run", "runs", "first", "second"), ("run",)),
    **dict.fromkeys(("--data", "--input", "source", "--negatives"), ("pairs.csv", "pairs.parquet", "sample")),
    **dict.fromkeys(("--output", "output", "--rejects", "--human-sheet", "--json"), ("out/x", "out/x.jsonl", "out/y")),
    **dict.fromkeys(("--empathy",), ("run/rewards/empathy",)),
    **dict.fromkeys(("--coherence",), ("run/rewards/coherence",)),
    "spec": ("spec.yaml",),
    "folder": (".",),
    "preset": ("smoke", "mine.yaml"),
    "--preset": ("smoke", "mine.yaml"),
    "--split": ("test",),
    "--direction": ("forward", "both"),
    "--only": ("empathy", "fluency,coherence"),
    "--baselines": ("template", "all"),
    "--reference": ("warm_start", "rl"),
    "--temperatures": ("0.5,1",),
    "names": ("random:llama",),
    "--seeker": ("I am so tired of this.",),
    "--response": ("That sounds hard.",),
}
"""What is typed where nothing is odd, so that other odd things come to light."""


def overrides() -> st.SearchStrategy[str]:
    """`KEY=VALUE` texts, right and wrong."""
    keys = [key for key in KEYS if key != "resources.address"]
    assigned = st.tuples(st.sampled_from(keys), st.sampled_from(YAML) | st.sampled_from(PATHS)).map("=".join)
    hosts = st.sampled_from(HOSTS).map("resources.address={}".format)
    return st.one_of(assigned, assigned, assigned, hosts, st.sampled_from(TEXTS))


def values(words: str, option: Option) -> st.SearchStrategy[str]:
    """What may be typed for an option."""
    if option.flag == "--address":
        return st.sampled_from(HOSTS)
    if option.flag is None and option.many and words not in ("evaluate", "models pull", "submit"):
        return overrides()
    if option.flag == "--set":
        return overrides()
    if option.kind in (int, float):
        return st.sampled_from(NUMBERS)
    odd = st.sampled_from(PATHS) | st.sampled_from((*TEXTS, *preset_names())) | ANY_TEXT
    usual = USUAL_PATHS.get(option.flag or option.name)
    # Three in four: with several odd values only the first one would come to light.
    return odd if usual is None else st.integers(0, 3).flatmap(lambda n: st.sampled_from(usual) if n else odd)


@dataclass(frozen=True)
class Typed:
    """A command line, and what it names as an input and as an output."""

    words: str
    arguments: list[str]
    sources: list[str]
    outputs: list[str]


@st.composite
def command_lines(draw: st.DrawFn) -> Typed:
    """A command with some of its options."""
    words = draw(st.sampled_from(sorted(COMMANDS)))
    options = COMMANDS[words]
    line: list[str] = []
    positional: list[str] = []
    named: dict[str, list[str]] = {"source": [], "output": []}
    for option in options:
        if option.kind is bool:
            # What only shows something is chosen below.
            if option.flag not in ("--dry-run", "--follow", "--smoke") and draw(st.integers(0, 3)) == 0:
                line.append(str(option.flag))
            continue
        # Mostly what a command needs, so that it comes further than the parser.
        if not draw(st.integers(0, 9)) < (9 if option.required else 3):
            continue
        times = draw(st.integers(1, 2)) if option.many else 1
        for _ in range(times):
            value = draw(values(words, option))
            named.get("output" if option.name == "rejects" else option.name, []).append(value)
            if option.flag is None:
                positional.append(value)
            else:
                line.append(f"{option.flag}={value}")
    if words == "data generate":
        # Its default is a corpus of a size to measure with.
        line.append("--rows=3")
    if words not in CHEAP and any(option.flag == "--dry-run" for option in options):
        line.append("--dry-run")
    if words == "watch":
        line.append("--once")
    arguments = [*words.split(), *line, *(["--", *positional] if positional else [])]
    return Typed(words, arguments, named["source"], named["output"])


def environments() -> st.SearchStrategy[dict[str, str]]:
    """Mostly nothing unusual."""
    one = st.sampled_from([(name, value) for name, found in ENVIRONMENT.items() for value in found])
    return st.one_of(st.just({}), st.lists(one, max_size=2).map(dict))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Path:
    """A folder with what people have lying about."""
    folder = tmp_path_factory.mktemp("fuzz") / "work"
    folder.mkdir()
    rows = [(f"I am so tired of this, day {day}.", f"That sounds hard. Try to rest on day {day}.") for day in range(40)]
    csv = "seeker_post,response_post\n" + "".join(f'"{seeker}","{response}"\n' for seeker, response in rows)
    for name in ("pairs.csv", "my data #1.csv", "[red].csv"):
        (folder / name).write_text(csv, encoding="utf-8")
    (folder / "pairs.tsv").write_text("".join(f"{s}\t{r}\n" for s, r in rows), encoding="utf-8")
    lines = (f'{{"seeker_post": "{s}", "response_post": "{r}"}}\n' for s, r in rows)
    (folder / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "half.jsonl").write_text('{"seeker_post": "I am', encoding="utf-8")
    (folder / "header.csv").write_text("seeker_post,response_post\n", encoding="utf-8")
    (folder / "latin.csv").write_bytes(csv.replace("tired", "tiréd").encode("latin-1"))
    (folder / "utf16.csv").write_bytes(csv.encode("utf-16"))
    for name in ("empty.csv", "empty.parquet"):
        (folder / name).touch()
    (folder / "broken.parquet").write_bytes(b"PAR1" + b"x" * 100 + b"PAR1")
    (folder / "link.csv").symlink_to("pairs.csv")
    (folder / "loop").symlink_to("loop")
    (folder / "folder").mkdir()
    (folder / "list.yaml").write_text("- 1\n", encoding="utf-8")
    (folder / "broken.yaml").write_text("a: [\n", encoding="utf-8")
    (folder / "mine.yaml").write_text("data:\n  source: pairs.csv\n", encoding="utf-8")
    spec = "base: smoke\nspace:\n  algorithm.learning_rate: {loguniform: [1.0e-5, 1.0e-3]}\n"
    (folder / "spec.yaml").write_text(spec, encoding="utf-8")
    shutil.copytree(finished_run, folder / "run", symlinks=True)
    (folder / "damaged").mkdir()
    for name in ("config.yaml", "run.json", "metrics.jsonl", "summary.json", "partner_rl.json"):
        (folder / "damaged" / name).write_text('{"a', encoding="utf-8")
    with contextlib.chdir(folder):
        assert run(["data", "convert", "pairs.csv", "pairs.parquet"])[0] == 0
    shutil.copytree(folder, folder.with_name("kept"), symlinks=True)
    (folder / "out").mkdir()
    return folder


class _Kept(io.BytesIO):
    """What was written, also after a command has put another stream in front of it."""

    def close(self) -> None:
        pass


def run(arguments: list[str], encoding: str = "utf-8") -> tuple[int, str, str]:
    """The command line in this process: status, standard output and standard error."""
    buffers = [_Kept(), _Kept()]
    streams = [io.TextIOWrapper(buffer, encoding=encoding, write_through=True) for buffer in buffers]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with (
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
        warnings.catch_warnings(),
        pytest.raises(SystemExit) as ended,
    ):
        main(arguments)
    root.handlers[:], root.level = handlers, level
    out, err = (buffer.getvalue().decode(encoding, errors="replace") for buffer in buffers)
    return int(ended.value.code or 0), out, err


def state(folder: Path) -> dict[str, str]:
    """Every name below a folder and what is there, but for the place that commands may write to."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
        if path.relative_to(folder).parts[0] != "out"
    }


def tried(line: list[str], encoding: str = "utf-8") -> int:
    """Runs a command line, checks how it answers, and gives its status."""
    status, _, err = run(line, encoding)
    assert status in (0, 1, 2), err
    assert not re.search(r"unexpected|Traceback", err), err
    # One line, the last one; a report in JSON holds it.
    assert status != 1 or "--json" in line or err.rstrip("\n").rpartition("\n")[2].startswith("error: "), err
    event(f"{' '.join(line[:2])}: status {status}")
    return status


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """In the folder, with a home there; what a block sets is taken back."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", None)
        patch.setenv("HOME", str(folder / "out"))
        yield patch


def fuzz(examples: int) -> settings:
    """The same examples each time, but for `FUZZ_EXAMPLES=N`, which looks for new ones."""
    wanted = os.environ.get("FUZZ_EXAMPLES")
    return settings(
        max_examples=int(wanted or examples),
        derandomize=wanted is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.reported
@fuzz(300)
@given(line=command_lines(), variables=environments(), encoding=st.sampled_from(("utf-8", "utf-8", "ascii", "latin-1")))
def test_whatever_is_typed_gets_an_answer(workplace: Path, line: Typed, variables: dict[str, str], encoding: str):
    before = state(workplace)
    with at_work(workplace) as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        tried(line.arguments, encoding)
        sources, outputs = ({os.path.realpath(name) for name in names} for names in (line.sources, line.outputs))
    after = state(workplace)
    changed = {str(workplace / name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    # A dry run leaves nothing, and whole ones what they were told to write; no input is lost.
    allowed = outputs - sources if line.words in CHEAP else set()
    assert all(any(name == one or name.startswith(f"{one}/") for one in allowed) for name in changed), changed
    restore(workplace, changed)


def restore(folder: Path, names: set[str]) -> None:
    """Puts back what was there at the beginning."""
    for name in sorted(names):
        path = Path(name)
        kept = folder.with_name("kept") / path.relative_to(folder)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if kept.is_file():
            shutil.copy2(kept, path, follow_symlinks=False)


def documents(leaves: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """YAML texts with keys of the configuration, in sections as they stand in a file."""

    def text(pairs: list[tuple[str, str]]) -> str:
        return "".join(
            f"{section}:\n  {rest.replace('.', ': {', 1)}: {value}{' }' if '.' in rest else ''}\n"
            if rest
            else f"{section}: {value}\n"
            for key, value in pairs
            for section, _, rest in [key.partition(".")]
        )

    return st.lists(st.tuples(st.sampled_from(KEYS) | st.sampled_from(TEXTS), leaves), max_size=3).map(text)


ODD_RANGES = (
    *(
        "{loguniform: [1, 0]}",
        "{loguniform: [0, 1]}",
        "{uniform: [a, b]}",
        "{choice: []}",
        "{randint: [0.5, 2]}",
        "{grid: 3}",
    ),
    *(
        "{quniform: [0, 1, 0]}",
        "{uniform: [0, .inf]}",
        "{choice: [1, [2]]}",
        "{choice: [1], grid: [2]}",
        "{uniform: [0, 1]}",
    ),
)


@pytest.mark.reported
@fuzz(100)
@given(document=documents(st.sampled_from(YAML)) | st.sampled_from(YAML))
def test_whatever_stands_in_a_configuration_gets_an_answer(workplace: Path, document: str):
    with at_work(workplace):
        Path("out/odd.yaml").write_text(document, encoding="utf-8")
        tried(["config", "show", "out/odd.yaml"])


@pytest.mark.reported
@fuzz(60)
@given(
    spec=st.dictionaries(st.sampled_from(list(SweepSpec.model_fields)), st.sampled_from(YAML), max_size=2),
    space=st.dictionaries(st.sampled_from(KEYS), st.sampled_from((*ODD_RANGES, *YAML)), min_size=1, max_size=2),
)
def test_whatever_stands_in_a_sweep_gets_an_answer(workplace: Path, spec: dict[str, str], space: dict[str, str]):
    ranges = "".join(f"\n  {key}: {value}" for key, value in space.items())
    lines = {"base": "smoke", "space": ranges, **spec}
    with at_work(workplace):
        text = "".join(f"{key}: {value}\n" for key, value in lines.items())
        Path("out/odd.yaml").write_text(text, encoding="utf-8")
        tried(["sweep", "out/odd.yaml", "--dry-run"])


READERS = (
    ["watch", "run", "--once"],
    ["runs", "list", "."],
    ["runs", "compare", "run", "run"],
    ["evaluate", "run", "--dry-run"],
    ["evaluate", "run", "--output=out/report", "--dry-run"],
    ["rewrite", "--model=run", "--input=pairs.csv", "--output=out/x.jsonl", "--dry-run"],
    ["rewrite", "--model=run/export", "--seeker=I am tired.", "--response=Rest.", "--dry-run"],
    ["train", "--resume=run", "--dry-run"],
    ["rewards", "score", "--run=run", "--input=pairs.csv", "--output=out/x.parquet", "--dry-run"],
    ["warmstart", "--rewards=run", "--preset=smoke", "--output=out/warm", "--dry-run"],
    ["doctor", "--preset=run/config.yaml"],
)
DAMAGES = ("gone", "empty", "half", "garbage", "brace", "number", "null", "list", "folder", "loop")


def damage(path: Path, how: str) -> None:
    """What disks, editors and interrupted copies make of a file."""
    content = path.read_bytes()
    contents = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "garbage": b"\xff\xfe\x00" + content[3:],
        "brace": b"{",
        "number": b"3",
        "null": b"null",
        "list": b"[1, {}]",
    }
    path.unlink()
    if how in contents:
        path.write_bytes(contents[how])
    elif how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path.name)


@pytest.mark.reported
@fuzz(100)
@given(data=st.data())
def test_whatever_has_become_of_a_run_gets_an_answer(workplace: Path, data: st.DataObject):
    run_folder = workplace / "run"
    files = sorted(path for path in run_folder.rglob("*") if path.is_file() and "wandb" not in path.parts)
    victim = data.draw(st.sampled_from(files).map(lambda path: path.relative_to(workplace)))
    line = data.draw(st.sampled_from(READERS))
    how = data.draw(st.sampled_from(DAMAGES))
    kept = workplace / "out" / "kept"
    shutil.copy2(workplace / victim, kept)
    try:
        with at_work(workplace):
            damage(victim, how)
            tried(line)
    finally:
        path = workplace / victim
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        shutil.move(kept, path)
