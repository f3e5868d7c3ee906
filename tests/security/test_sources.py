"""The sources hold no call that could run what somebody else wrote."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from partner_rl.config.yaml_text import _Loader

ROOT = Path(__file__).parents[2]
PACKAGES = ("partner_rl", "envs", "rewards", "launch", "benchmarks")
SOURCES = [path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "tarfile"}
CALLS = {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle"}
TOKENIZES = {"partner_rl/models/text_tokens.py", "partner_rl/evaluation/baselines/base_model.py"}
"""Where a tokenizer is called with more than a literal; the second does it for the frame of a chat template."""
OWN_LOADER = ROOT / "partner_rl" / "config" / "yaml_text.py"


def dotted(node: ast.expr) -> str:
    """The name that is called, such as `torch.load`; `.load` after anything but a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def findings(source: str, *, has_own_loader: bool = False) -> list[str]:
    """What is wrong in a module."""
    return [found for node in ast.walk(ast.parse(source)) for found in wrong(node, has_own_loader)]


def wrong(node: ast.AST, has_own_loader: bool) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"import {alias.name}" for alias in node.names if alias.name.partition(".")[0] in MODULES)
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
        yield f"from {node.module}"
    if isinstance(node, ast.Call):
        yield from wrong_call(node, has_own_loader)


def wrong_call(node: ast.Call, has_own_loader: bool) -> Iterator[str]:
    name, given = dotted(node.func), {word.arg: word.value for word in node.keywords}
    literal = {arg: value.value for arg, value in given.items() if isinstance(value, ast.Constant)}
    method = name.rpartition(".")[2]
    if name in CALLS or method == "extractall" or "cloudpickle" in name:
        yield name
    if name == "torch.load" and literal.get("weights_only") is not True:
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and literal.get("allow_pickle") is not False:
        yield "np.load without allow_pickle=False"
    if name == "yaml.load" and not (has_own_loader and dotted(given.get("Loader", node.func)) == "_Loader"):
        yield "yaml.load"
    if "shell" in given and literal.get("shell") is not False:
        yield "shell=True"
    if "trust_remote_code" in given and literal.get("trust_remote_code") is not False:
        yield "trust_remote_code"
    if method == "from_pretrained" and name.startswith("Auto") and "trust_remote_code" not in given:
        yield "from_pretrained without trust_remote_code=False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_source_runs_nothing_from_outside(path):
    assert findings(path.read_text(encoding="utf-8"), has_own_loader=path == OWN_LOADER) == []


def tokenizing(source: str) -> list[str]:
    """The calls that give a text to a tokenizer itself, which takes control tokens in it for such."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args]
    names = [dotted(call.func).split(".") for call in calls if not isinstance(call.args[0], ast.Constant)]
    ways, tokenizers = {"encode", "encode_plus", "encode_batch", "tokenize"}, {"tokenizer", "_tokenizer"}
    return [
        ".".join(name)
        for name in names
        if name[-1] in tokenizers or (name[-1] in ways and not tokenizers.isdisjoint(name[-2:-1]))
    ]


@pytest.mark.parametrize("path", [p for p in SOURCES if "benchmarks" not in p.parts], ids=lambda path: path.name)
def test_texts_are_tokenised_in_one_place(path):
    if path.relative_to(ROOT).as_posix() not in TOKENIZES:
        assert tokenizing(path.read_text(encoding="utf-8")) == []


def test_a_tokenizer_that_is_called_is_found():
    source = (
        "a = tokenizer(text); b = self._tokenizer([text], padding=True); c = policy.tokenizer.encode(x); tokenizer('')"
    )
    assert tokenizing(source) == ["tokenizer", "self._tokenizer", "policy.tokenizer.encode"]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import ray.cloudpickle; ray.cloudpickle.loads(x)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=flag)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, Loader=_Loader)",
        "eval(text)",
        "exec(text)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "subprocess.Popen(command, shell=flag)",
        "AutoModel.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, trust_remote_code=config.trust)",
        "zipfile.ZipFile(path).extractall(folder)",
    ],
)
def test_each_of_these_would_be_found(source):
    assert findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "model.to(device).eval()",
        "torch.load(path, weights_only=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=False)",
        "subprocess.run([program, argument])",
        "yaml.safe_load(text)",
    ],
)
def test_none_of_these_would(source):
    assert findings(source) == []


def test_the_own_loader_of_yaml_is_a_safe_one():
    assert issubclass(_Loader, yaml.SafeLoader)
    assert len(SOURCES) > 150
