"""`doctor`, `--dry-run` and `--smoke` through the real command line, and plans against a real Ray of several nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import requests
import typer
import yaml
from typer.testing import CliRunner

from launch.cli import app
from launch.preflight.check_request import run_request
from launch.preflight.cluster import cluster_state
from launch.preflight.corpus import first_rows
from launch.preflight.disk import disk_of, run_bytes
from launch.preflight.facts import gather
from launch.preflight.machine import local_machine
from launch.preflight.packages import installed_packages
from launch.preflight.wandb_access import wandb_access
from launch.resources.capacity import require_capacity
from launch.resources.plan import resource_plan
from launch.resources.session import ray_session
from launch.training.smoke import smoke_config
from partner_rl.cluster import local_ray
from partner_rl.cluster.local_ray import join_ray
from partner_rl.cluster.nodes import cluster_nodes
from partner_rl.cluster.placement import place
from partner_rl.config.load import load_config, preset_names, save_config
from partner_rl.config.schema import RunConfig, TrackingConfig
from partner_rl.types import PartnerError
from tests.helpers import artefacts
from tests.helpers.command_line import partner
from tests.helpers.waiting import wait_until

STORE = 80 * 2**20
TIMEOUT_S = 300.0
# A process that is in a cluster already stays there: a Ray of another file would be the one that is looked at.
pytestmark = pytest.mark.usefixtures("no_ray")

PAIRS = "seeker_post,response_post\nI failed again.,Try harder. You can do it.\n"


@pytest.fixture(autouse=True)
def _no_tracker(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> Path:
    """What the commands that take a finished run look at, without having trained one."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    for name in ("export", "warm_start"):
        artefacts.write_policy(folder / name)
    artefacts.write_empathy(folder / "rewards" / "empathy")
    artefacts.write_coherence(folder / "rewards" / "coherence")
    artefacts.write_judge(folder.parent / "judge")
    save_config(load_config("smoke", ["name=done"]), folder / "config.yaml")
    return folder


def invoke(folder: Path, *arguments: object) -> tuple[int, str]:
    """Runs a command in this process and folder; a PartnerError is status 1 and its message."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, PartnerError):
        return 1, result.output + str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


DRY = {
    "train": ["train", "--preset", "smoke", "name=first"],
    "train on two learners": ["train", "--preset", "smoke", "algorithm.num_learners=2", "policy.lora.rank=4"],
    "quickstart": ["quickstart", "--preset", "smoke"],
    "warmstart": ["warmstart", "--preset", "smoke", "--output", "warm"],
    "ablate": ["ablate", "--preset", "smoke", "--only", "no_coherence"],
    "resume": ["train", "--resume", "RUN"],
    "evaluate": ["evaluate", "RUN"],
    "rewrite": ["rewrite", "--model", "RUN", "--input", "PAIRS", "--output", "out.jsonl"],
    "rewards train empathy": ["rewards", "train", "empathy", "--preset", "smoke", "--data", "sample", "-o", "m"],
    "rewards train coherence": ["rewards", "train", "coherence", "--preset", "smoke", "--data", "sample", "-o", "m"],
    "rewards train mi": ["rewards", "train", "mi", "--preset", "smoke", "--data", "sample", "-o", "m"],
    "rewards score": ["rewards", "score", "--run", "RUN", "--input", "PAIRS", "--output", "out.jsonl"],
    "rewards bench": ["rewards", "bench", "--run", "RUN", "--json", "out.json"],
    "judge train": ["judge", "train", "--preset", "smoke", "--data", "sample", "-o", "m"],
    "judge score": ["judge", "score", "--model", "RUN/../judge", "--input", "PAIRS", "-o", "out.jsonl"],
    "baselines": ["baselines", "train-seq2seq", "--preset", "smoke", "--data", "sample", "-o", "m"],
    "data curate": ["data", "curate", "PAIRS", "curated", "--workers", "2"],
    "data label": ["data", "label", "PAIRS", "labelled", "--model", "RUN/rewards/empathy"],
    "data warmstart-pairs": ["data", "warmstart-pairs", "PAIRS", "examples"],
    "data generate": ["data", "generate", "pairs", "--rows", "1000"],
    "data convert": ["data", "convert", "PAIRS", "pairs.parquet"],
    "data pull": ["data", "pull", "epitome", "--output", "epitome"],
    "models pull": ["models", "pull", "random:llama", "--cache-dir", "cache"],
    "sweep": ["sweep", "reward_weights", "--num-samples", "2"],
    "data train-topic": ["data", "train-topic", "--positives", "sample", "-o", "topic", "--encoder", "random:bert"],
}


@pytest.mark.parametrize("name", DRY)
def test_a_dry_run_shows_everything_and_writes_nothing(name, tiny_run, tmp_path, monkeypatch):
    (tmp_path / "pairs.csv").write_text(PAIRS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", lambda *args, **kwargs: pytest.fail("Ray was started"))
    before = files_in(tmp_path), files_in(tiny_run)
    given = [
        argument.replace("RUN", str(tiny_run)).replace("PAIRS", str(tmp_path / "pairs.csv")) for argument in DRY[name]
    ]
    status, output = invoke(tmp_path, *given, "--dry-run")
    assert status == 0, output
    assert "Dry run: nothing was started or written." in output
    assert "Would write:" in output
    assert "Processes" in output
    assert (files_in(tmp_path), files_in(tiny_run)) == before


QUICK = {
    "config docs", "config show", "data stats", "doctor", "jobs list", "jobs logs", "jobs status", "jobs stop",
    "models list", "runs compare", "runs list", "runs sync", "watch",
}  # fmt: skip


def leaves(command: Any, context: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its name."""
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    for part in command.list_commands(context):
        _, found, _ = command.resolve_command(context, [part])
        yield from leaves(found, context, f"{name} {part}".strip())


def test_every_command_has_a_dry_run_but_those_that_only_look():
    root = typer.main.get_command(app)
    context = root.make_context("partner-rl", ["doctor"], resilient_parsing=True)
    options = {name: {o for given in command.params for o in given.opts} for name, command in leaves(root, context)}
    assert {name for name, given in options.items() if "--dry-run" not in given} == QUICK


def test_a_dry_run_of_a_submission_sends_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a-key-that-nobody-must-see")
    monkeypatch.setattr(requests, "get", lambda *args, **kwargs: pytest.fail("a cluster was asked"))
    monkeypatch.setattr(requests, "request", lambda *args, **kwargs: pytest.fail("a cluster was asked"))
    (tmp_path / "notes.txt").write_text("x" * 2**20)
    given = ["submit", "--dry-run", "--working-dir", str(tmp_path), "--", "train", "--preset", "smoke"]
    status, output = invoke(tmp_path, *given)
    assert status == 0, output
    for expected in ("1.0 MiB", "WANDB_API_KEY", "resources.address=auto", "nothing was sent"):
        assert expected in output
    assert "nobody-must-see" not in output


def test_a_dry_run_prints_a_configuration_that_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output = invoke(tmp_path, "train", "--preset", "smoke", "algorithm.iterations=7", "--dry-run")
    assert status == 0, output
    shown = yaml.safe_load(output.partition("\nProcesses")[0])
    assert RunConfig.model_validate_json(json.dumps(shown)).algorithm.iterations == 7
    for expected in ("runs/smoke-DATE-TIME/checkpoints", "driver", "reward mutual_information", "kv cache"):
        assert expected in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--preset", "smoke", "data.source=nothing.csv"], "nothing.csv (No such file"),
        (["train", "--preset", "smoke", "models.policy=nothing"], "unknown model"),
        (["train", "--preset", "smoke", "rewards.empathy.num_gpus=64"], "more GPUs than this machine's"),
        (["train", "--preset", "smoke", "rewards.empathy.checkpoint=nothing"], "no empathy classifier"),
        (["quickstart", "--preset", "smoke", "name=taken"], "taken exists"),
        (["data", "label", "pairs.csv", "out", "--model", "nothing"], "no empathy classifier"),
        (["data", "curate", "nothing.csv", "out"], "nothing.csv (No such file"),
    ],
)
def test_a_dry_run_of_what_would_fail_is_status_1(arguments, words, tmp_path, monkeypatch):
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "pairs.csv").write_text(PAIRS)
    monkeypatch.chdir(tmp_path)
    status, output = invoke(tmp_path, *arguments, "--dry-run")
    assert status == 1
    assert words in output
    assert "nothing was started or written" in output


def test_doctor_is_content_with_the_smoke_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output = invoke(tmp_path, "doctor", "--preset", "smoke", "--json")
    found = json.loads(output)
    assert status == 0
    assert found["ok"]
    assert found["nodes"][0]["actors"] == {
        f"reward {name}": 1 for name in ("empathy", "fluency", "coherence", "mutual_information")
    }
    assert {process["group"] for process in found["memory"]} >= {"driver", "reward fluency"}
    assert {row["check"] for row in found["checks"]} >= {"versions", "memory", "data", "disk", "W&B", "models"}
    assert files_in(tmp_path) == set()


def test_doctor_tells_what_is_wrong_and_is_status_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = ["tracking.wandb=online", "data.source=nothing.csv", "resources.address=127.0.0.1:1"]
    monkeypatch.setenv("HOME", str(tmp_path))
    status, output = invoke(tmp_path, "doctor", "--preset", "smoke", *wrong)
    assert status == 1
    assert "no API key" in output
    assert "nothing.csv (No such file" in output
    assert "no Ray cluster answers at 127.0.0.1:1" in output
    assert "2 problems" in output


def test_facts_of_this_machine(tmp_path):
    machine = local_machine()
    assert machine.cores >= 1
    assert 0 < machine.free_memory <= machine.memory
    packages = {package.name: package for package in installed_packages()}
    assert packages["ray"].installed == packages["ray"].pinned == ray.__version__
    assert "2.61" in packages["ray"].required
    deep = disk_of(tmp_path / "a" / "b")
    assert deep.is_writable
    assert deep.free > 0
    (tmp_path / "file").write_text("")
    assert not disk_of(tmp_path / "file" / "runs").is_writable


def test_facts_of_the_data_name_the_trouble_without_showing_texts():
    found = first_rows(RunConfig(), needs_labels=True)
    assert found.pairs == found.labelled == 200
    assert found.needs_labels


def test_a_tracker_is_asked_only_when_the_run_would_go_online(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_access(TrackingConfig()).mode == "offline"
    assert wandb_access(TrackingConfig(wandb="online")).has_key is False
    monkeypatch.setenv("WANDB_BASE_URL", "http://somebody:secret@127.0.0.1:1")
    monkeypatch.setenv("WANDB_API_KEY", "local")
    asked = wandb_access(TrackingConfig())
    assert (asked.mode, asked.has_key, asked.is_reachable) == ("online", True, False)
    assert asked.address == "http://127.0.0.1:1"


def test_a_token_that_others_may_read_is_noticed(monkeypatch, tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o755)
    token.write_text("x" * 32)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for mode, found in ((0o644, str(token)), (0o640, str(token)), (0o600, None)):
        token.chmod(mode)
        assert cluster_state(RunConfig(), None).open_token == found
    token.chmod(0o644)
    token.parent.chmod(0o700)
    assert cluster_state(RunConfig(), None).open_token is None
    token.parent.chmod(0o755)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    facts = cluster_state(RunConfig(), None)
    assert (facts.has_token, facts.open_token) == (False, None)
    monkeypatch.delenv("RAY_AUTH_MODE")
    assert cluster_state(RunConfig(), None).has_token


def test_what_a_warm_start_replaces_is_not_looked_for(tiny_run):
    overrides = [f"warmstart.checkpoint={tiny_run / 'warm_start'}", "models.policy=hf:nobody/nothing"]
    config = load_config("smoke", overrides)
    facts = gather(config, run_request(config))
    assert {"warmstart.checkpoint"} == {fact.key for fact in facts.models} - {"models.reward_lm", "models.encoder"}
    assert facts.memory[0].group == "driver"
    assert run_bytes(facts.config, facts.shapes) is not None


@pytest.mark.parametrize("preset", preset_names())
def test_the_smoke_of_every_preset_is_valid_and_small(preset, tmp_path):
    config = load_config(preset)
    tiny = smoke_config(config, tmp_path)
    assert tiny.algorithm.iterations == 1
    assert tiny.algorithm.groups_per_iteration <= 2
    assert tiny.models.policy.startswith("random:")
    assert tiny.tracking.wandb == "disabled"
    for section in ("num_env_runners", "num_learners", "num_gpus_per_learner", "advantage", "kl_coeff"):
        assert getattr(tiny.algorithm, section) == getattr(config.algorithm, section)
    assert tiny.resources == config.resources
    same = [resource_plan(one, 8, 8).groups for one in (config, tiny)]
    assert same[0] == same[1]


def test_the_smoke_shares_its_groups_out_evenly(tmp_path):
    overrides = ["algorithm.num_env_runners=2", "algorithm.num_learners=3", "algorithm.groups_per_iteration=12"]
    config = load_config("smoke", [*overrides, "algorithm.minibatch_groups=6"])
    assert smoke_config(config, tmp_path).algorithm.groups_per_iteration == 6
    judged = load_config("smoke", ["evaluation.judge=somewhere", "guards.judge_every=1"])
    assert smoke_config(judged, tmp_path).evaluation.judge is None


@pytest.mark.slow
def test_smoke_runs_one_iteration_and_keeps_nothing(tmp_path):
    given = ["--preset", "embedded", "algorithm.num_env_runners=1", "data.source=nothing.csv", "runs_dir=here/runs"]
    # Which rewards there are is not the subject, and each is a process that imports torch.
    given += ["rewards.coherence.weight=0", "rewards.mutual_information.weight=0"]
    result = partner("train", "--smoke", *given, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ok: one iteration with tiny models in ")
    assert files_in(tmp_path) <= {"here"}


@pytest.fixture(scope="module")
def cluster(no_ray):
    """A head without anything, and a node with two CPUs and a GPU: numbers alone."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(wait=False, num_cpus=2, num_gpus=1, object_store_memory=STORE)
    made.wait_for_nodes(TIMEOUT_S)
    yield made
    made.shutdown()


@pytest.fixture
def joined(cluster):
    join_ray(cluster.address)
    yield cluster
    ray.shutdown()


IMPOSSIBLE = [
    "algorithm.num_env_runners=2",
    "algorithm.num_gpus_per_env_runner=1",
    "rewards.num_cpus=0.1",
]


@pytest.mark.cluster
@pytest.mark.slow
def test_nodes_of_a_real_cluster(joined):
    nodes = cluster_nodes()
    assert sorted((node.total.get("CPU", 0.0), node.total.get("GPU", 0.0)) for node in nodes) == [(0, 0), (2, 1)]

    @ray.remote(num_cpus=1, num_gpus=0.5)
    class Holder:
        def hold(self) -> None:
            pass

    def free() -> tuple[float, ...]:
        return tuple(sum(node.free.get(name, 0.0) for node in cluster_nodes()) for name in ("CPU", "GPU"))

    holder = Holder.remote()
    ray.get(holder.hold.remote())
    # Nodes tell of what is reserved a moment later.
    wait_until(lambda: free() == (1.0, 0.5), "nothing is reserved")
    plan = resource_plan(load_config("smoke", ["resources.address=auto", *IMPOSSIBLE]), 2, 0)
    assert place(plan.groups, cluster_nodes()).missing == {"env runners": 2}
    # And of what is given back: the next test finds the nodes empty.
    ray.kill(holder)
    wait_until(lambda: free() == (2.0, 1.0), "nothing is given back")


@pytest.mark.cluster
@pytest.mark.slow
def test_train_is_refused_within_ten_seconds_and_writes_nothing(cluster, tmp_path, monkeypatch):
    given = ["--preset", "smoke", f"resources.address={cluster.address}", *IMPOSSIBLE]
    joining = []

    def timed_join(address: str, **options: Any) -> None:
        began = time.monotonic()
        join_ray(address, **options)
        joining.append(time.monotonic() - began)

    # How long Ray takes to let a process in depends on what else the machine does; the rest is ours.
    monkeypatch.setattr(local_ray, "join_ray", timed_join)
    started = time.monotonic()
    config = load_config("smoke", given[2:])
    with pytest.raises(PartnerError) as refused, ray_session(config, resource_plan(config, 2, 0)):
        pytest.fail("the session was opened")
    assert time.monotonic() - started - sum(joining) < 10
    assert len(joining) == 1
    assert "env runners 2 × 1 GPU and 1 CPU: 1 of them find no node; the largest node has 1 GPU" in str(refused.value)
    assert not ray.is_initialized()
    result = partner("train", *given, folder=tmp_path)
    assert result.returncode == 1
    assert "1 of them find no node" in result.stderr
    assert "Traceback" not in result.stderr
    assert files_in(tmp_path) == set()


@pytest.mark.cluster
@pytest.mark.slow
def test_dry_run_and_doctor_show_the_nodes_of_the_cluster(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitting = [f"resources.address={cluster.address}", "algorithm.num_env_runners=1", "rewards.num_cpus=0.25"]
    status, output = invoke(tmp_path, "train", "--preset", "smoke", *fitting, "--dry-run")
    assert status == 0, output
    assert "1 × env runners" in output
    assert "without a token anybody" not in output
    assert not ray.is_initialized()
    status, output = invoke(
        tmp_path, "doctor", "--preset", "smoke", f"resources.address={cluster.address}", *IMPOSSIBLE
    )
    assert status == 1
    assert "1 of them find no node" in output


@pytest.mark.cluster
@pytest.mark.slow
def test_a_run_waits_for_a_node_and_asks_for_it(joined, capsys):
    from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    def requested() -> list[dict[str, float]]:
        return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or "[]")

    plan = resource_plan(load_config("smoke", ["resources.address=auto", *IMPOSSIBLE]), 2, 0)
    with pytest.raises(PartnerError, match="no room for the run after 1 s"):
        require_capacity(plan, 1.0)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(require_capacity, plan, TIMEOUT_S)
        wait_until(lambda: bool(requested()), "no node is asked for")
        asked = requested()
        # Ray starts nodes in the main thread alone.
        joined.add_node(wait=False, num_cpus=1, num_gpus=1, object_store_memory=STORE)
        assert waiting.result().fits
    assert sum(bundle.get("GPU", 0) for bundle in asked) == 2
    assert len(asked) == 6
    # A request that stayed would keep nodes running for nobody.
    assert requested() == []
    assert "Waiting for nodes" in capsys.readouterr().err
