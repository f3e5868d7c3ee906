"""What a sweep tries and in which order of merit: spec, points, front, sizes; neither Ray nor a model."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from launch.resources.memory import GIB, ProcessMemory
from launch.resources.plan import resource_plan
from launch.run_folder.folder import RunFolder
from launch.sweep.pareto import choose, losses, pareto_front, scaled
from launch.sweep.sharing import check_scorers, incomparable_objectives, shared_keys, shares
from launch.sweep.sizing import check_reservations, on_gpus, sizing, trials_in_memory
from launch.sweep.space import Point, checked_configs, config_maker, planned_points
from launch.sweep.spec import SweepSpec, read_spec, shipped_specs, spec_yaml
from launch.sweep.trial import client_of
from launch.sweep.trial_records import SweepFolder
from partner_rl.config.load import load_config, save_config
from partner_rl.types import PartnerError, ScoreRequest
from rewards.assembly import assemble, collect_items
from rewards.pool import ClientSpec, PoolSpec
from rewards.registry import all_components
from tests.helpers.command_line import ROOT
from tests.launch.sweep.specs import EMPATHY, LAMBDA, spec_of

# --- the spec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"serch": "grid"}, "serch: unknown key; did you mean search?"),
        ({"search": "optunna"}, 'search: "optunna" is none of the values; did you mean optuna?'),
        ({"space": {EMPATHY: {"unifrom": [0, 1]}}}, "unknown key; did you mean uniform?"),
        ({"space": {EMPATHY: {"uniform": [1, 0]}}}, "goes from a lower to a higher bound"),
        ({"space": {EMPATHY: {"loguniform": [0, 1]}}}, "needs bounds above 0"),
        ({"space": {EMPATHY: {"uniform": [0, 1], "choice": [1]}}}, "give exactly one of"),
        ({"space": {EMPATHY: {"choice": []}}}, "needs at least one value"),
        ({"space": {}}, "space is empty"),
        ({"space": {EMPATHY: {"uniform": [0, 1]}}}, "search grid takes lists"),
        ({"search": "optuna"}, "write choice instead of grid"),
        ({"objectives": {"perplexty": "min"}}, "did you mean perplexity?"),
        ({"objectives": {}}, "objectives is empty"),
        ({"choose": {"coherence": 1.0}}, "coherence is no objective"),
        ({"scheduler": "pbt"}, f"which {LAMBDA} does not allow"),
        ({"num_samples": 0}, "num_samples"),
    ],
)
def test_a_wrong_spec_is_one_line_that_says_what_is_meant(values, message):
    with pytest.raises(PartnerError) as caught:
        spec_of(**values)
    assert message in str(caught.value)
    assert str(caught.value).startswith("test: ")
    assert "\n" not in str(caught.value)


def test_a_spec_is_read_back_as_it_was_written(tmp_path):
    spec = spec_of(choose={"perplexity": 2.0}, scheduler="asha", overrides={"seed": 3})
    (tmp_path / "s.yaml").write_text(spec_yaml(spec))
    assert read_spec(str(tmp_path / "s.yaml")) == (spec, "s")


def test_the_base_is_seen_from_the_spec(tmp_path):
    save_config(load_config("smoke", ["seed=5"]), tmp_path / "mine.yaml")
    (tmp_path / "s.yaml").write_text(spec_yaml(spec_of(base="mine.yaml")))
    spec, _ = read_spec(str(tmp_path / "s.yaml"))
    assert config_maker(spec, [])({}).seed == 5


@pytest.mark.parametrize("name", shipped_specs())
def test_shipped_specs_are_right(name):
    spec, _ = read_spec(name)
    list(checked_configs(spec, config_maker(spec, []), planned_points(spec)))
    check_scorers(spec, config_maker(spec, []))


def test_the_shipped_spec_sweeps_every_weight():
    spec, _ = read_spec("reward_weights")
    components = load_config(spec.base).rewards.components()
    # Those that have actors only where they have a weight are for who asks for them: all trials reserve the same.
    weights = {f"rewards.{name}.weight" for name, section in components.items() if getattr(section, "measures", True)}
    assert set(spec.space) == {*weights, LAMBDA}


def test_the_documented_spec_is_right(tmp_path):
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/sweeps.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "s.yaml").write_text(text)
    spec, _ = read_spec(str(tmp_path / "s.yaml"))
    list(checked_configs(spec, config_maker(spec, []), planned_points(spec)))
    documented = re.findall(r"^\| `(.*)` \|", (ROOT / "docs/sweeps.md").read_text(), re.MULTILINE)
    assert set(SweepSpec.model_fields) <= {key for row in documented for key in re.split(r"`, `|` \|.*", row)}


# --- points -----------------------------------------------------------------------------------------------------------


def test_a_grid_has_every_combination_once():
    points = planned_points(spec_of())
    assert points is not None
    assert [tuple(point.values.values()) for point in points] == list(itertools.product([0.5, 1.0], [0.2, 0.8]))
    assert [point.name for point in points] == ["trial-0001", "trial-0002", "trial-0003", "trial-0004"]


def random_points(samples: int, **values: Any) -> list[Point]:
    space = {
        EMPATHY: {"loguniform": [0.1, 10.0]},
        "rewards.fluency.weight": {"quniform": [0.0, 2.0, 0.25]},
        "algorithm.iterations": {"randint": [1, 3]},
        "policy.lora": {"choice": [None, {"rank": 2}]},
        LAMBDA: {"uniform": [0.0, 1.0]},
    }
    points = planned_points(spec_of(search="random", num_samples=samples, space=space | values))
    assert points is not None
    return points


def test_random_points_are_plain_values_in_their_ranges():
    points = random_points(60)
    config_of = config_maker(spec_of(), [])
    for point in points:
        json.dumps(dict(point.values))
    numbers = {key: [point.values[key] for point in points] for key in points[0].values}
    assert set(numbers["algorithm.iterations"]) == {1, 2, 3}
    assert all(0.1 <= value <= 10.0 for value in numbers[EMPATHY])
    assert sum(value < 1.0 for value in numbers[EMPATHY]) in range(15, 46)
    assert all(value % 0.25 == 0 for value in numbers["rewards.fluency.weight"])
    assert {json.dumps(value) for value in numbers["policy.lora"]} == {"null", '{"rank": 2}'}
    assert len(set(numbers[LAMBDA])) == 60
    assert config_of({"policy.lora": {"rank": 2}}).policy.lora is not None


def test_more_samples_leave_the_first_ones_as_they_are():
    assert random_points(8)[:5] == random_points(5)


def test_grid_keys_are_crossed_with_random_draws():
    points = random_points(2, seed={"grid": [1, 2, 3]})
    assert [point.values["seed"] for point in points] == [1, 2, 3, 1, 2, 3]
    assert len({point.values[LAMBDA] for point in points}) == 6


def test_wrong_points_are_found_before_anything_starts():
    spec = spec_of(space={"algorithm.samples_per_group": {"grid": [2, 1]}})
    with pytest.raises(PartnerError, match=r"trial-0002: .*samples_per_group must be at least 2"):
        list(checked_configs(spec, config_maker(spec, []), planned_points(spec)))
    spec = spec_of(search="optuna", space={"rewards.empathy.wait": {"uniform": [0, 1]}})
    with pytest.raises(PartnerError, match=r"did you mean rewards\.empathy\.weight"):
        list(checked_configs(spec, config_maker(spec, []), planned_points(spec)))


def test_a_weight_that_a_schedule_overrides_is_not_swept():
    spec = spec_of()
    config_of = config_maker(spec, ["rewards.empathy.schedule=[[1, 2.0]]"])
    with pytest.raises(PartnerError, match=r"rewards\.empathy\.schedule decides"):
        list(checked_configs(spec, config_of, planned_points(spec)))


# --- the front --------------------------------------------------------------------------------------------------------

ROWS = st.integers(1, 12).flatmap(
    lambda columns: arrays.arrays(
        np.float64, st.tuples(st.integers(0, 12), st.just(min(columns, 4))), elements=st.integers(0, 4).map(float)
    )
)


def dominates(a: Any, b: Any) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@given(ROWS)
def test_the_front_is_what_nothing_dominates(rows):
    expected = [i for i, row in enumerate(rows) if not any(dominates(other, row) for other in rows)]
    assert pareto_front(rows) == expected
    assert bool(expected) == bool(len(rows))


@given(ROWS)
def test_the_knee_is_farthest_from_the_plane_of_the_extremes(rows):
    front = pareto_front(rows)
    if not front:
        return
    names = [f"m{i}" for i in range(rows.shape[1])]
    chosen = choose(rows, front, names, "knee")
    good = scaled(rows, front)
    assert good.min() >= 0.0
    assert good.max() <= 1.0
    normal = np.ones(len(names)) / np.sqrt(len(names))
    corner = np.eye(len(names))[0]
    distances = (good - corner) @ normal
    assert distances[front.index(chosen)] == pytest.approx(distances.max())


def test_metrics_that_are_not_finite_are_never_chosen():
    rows = np.array([[np.nan, 0.0], [1.0, 1.0], [-np.inf, 2.0]])
    assert pareto_front(rows) == [1]


def test_a_weighted_choice_follows_its_weights():
    metrics = [{"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, {"a": 0.8, "b": 0.3}]
    found = losses(metrics, {"a": "max", "b": "min"})
    front = pareto_front(found)
    assert front == [0, 1, 2]
    assert choose(found, front, ["a", "b"], "knee") == 2
    assert choose(found, front, ["a", "b"], {"a": 1.0}) == 1
    assert choose(found, front, ["a", "b"], {"b": 3.0, "a": 1.0}) == 0


# --- sizes and shares -------------------------------------------------------------------------------------------------


def test_a_trial_reserves_its_actors():
    config = load_config(
        "smoke", ["algorithm.num_env_runners=2", "rewards.num_cpus=0.25", "rewards.fluency.replicas=2"]
    )
    size = sizing(spec_of(), config, 4, machine_cores=8, machine_gpus=0)
    # Its own process, two env runners, five reward actors.
    assert size.bundles == ({"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}, *[{"CPU": 0.25}] * 5)
    assert size.concurrent == 1
    assert sizing(spec_of(), config, 4, machine_cores=9, machine_gpus=0).concurrent == 2
    assert sizing(spec_of(max_concurrent=1), config, 4, machine_cores=9, machine_gpus=0).concurrent == 1


def test_a_shared_pool_leaves_room_for_more_trials():
    config = load_config("smoke", ["rewards.num_cpus=0.5"])
    own = sizing(spec_of(), config, 8, machine_cores=6, machine_gpus=0)
    shared = sizing(spec_of(share_rewards=True), config, 8, machine_cores=6, machine_gpus=0)
    assert (own.trial_cpus, own.concurrent) == (3.0, 2)
    assert (shared.trial_cpus, shared.concurrent) == (1.0, 4)
    # Ray is started with room for all of it, and every trial gets its share of the threads.
    assert shared.session.total_cpus == 6.0
    assert shared.plan.groups[0].threads == 1
    assert own.plan.groups[0].threads == 3
    pools = [group for group in shared.session.groups if group.name.startswith("reward ")]
    assert [group.count for group in pools] == [1, 1, 1, 1]


def test_a_small_machine_runs_one_trial_at_a_time():
    size = sizing(spec_of(), load_config("smoke"), 4, machine_cores=1, machine_gpus=0)
    assert size.concurrent == 1
    assert size.session.local_ray_cpus == 3


def test_trials_share_a_gpu():
    spec = spec_of(trial_gpus=0.25, reward_gpus=0.05)
    config = on_gpus(spec, load_config("smoke"), 1)
    size = sizing(spec, config, 8, machine_cores=16, machine_gpus=1)
    assert size.bundles[0] == {"CPU": 1.0, "GPU": 0.25}
    assert size.trial_gpus == pytest.approx(0.45)
    assert size.concurrent == 2
    assert config.rewards.empathy.num_gpus == 0.05
    assert on_gpus(spec, load_config("smoke", ["device=cpu"]), 1) == load_config("smoke", ["device=cpu"])
    greedy = spec_of(trial_gpus=0.8, reward_gpus=0.1)
    with pytest.raises(PartnerError, match=r"a trial asks for 1\.2 GPUs"):
        sizing(greedy, on_gpus(greedy, load_config("smoke"), 1), 8, machine_cores=16, machine_gpus=1)


def test_memory_limits_how_many_run_beside_each_other():
    config = load_config("smoke")
    own, shared = spec_of(), spec_of(share_rewards=True)
    plan = resource_plan(config, 8, 0)
    needs = [ProcessMemory(group.name, on_gpu=False, weights=0, overhead=GIB) for group in plan.groups]
    # A driver and four reward actors.
    assert trials_in_memory(own, plan, needs, 11 * GIB) == 2
    assert trials_in_memory(shared, plan, needs, 11 * GIB) == 7
    assert trials_in_memory(own, plan, needs, GIB) == 1
    assert sizing(own, config, 8, machine_cores=12, machine_gpus=0, in_memory=2).concurrent == 2
    wish = spec_of(max_concurrent=3)
    assert sizing(wish, config, 8, machine_cores=12, machine_gpus=0, in_memory=2).concurrent == 3


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("algorithm.num_env_runners", [0, 1]),
        ("rewards.fluency.replicas", [1, 2]),
        ("rewards.num_cpus", [0.25, 0.5]),
        ("resources.actor_threads", [1, 2]),
        ("rewards.listener.weight", [0.0, 1.0]),
    ],
)
def test_a_key_that_changes_what_a_trial_reserves_is_refused(key, values):
    spec = spec_of(space={key: {"grid": values}})
    config_of = config_maker(spec, [])
    with pytest.raises(PartnerError, match=r"trial-000\d has other processes, CPUs or GPUs"):
        check_reservations(checked_configs(spec, config_of, planned_points(spec)), config_of({}))


def test_metrics_that_are_not_measured_alike_are_named():
    checkpoints = {"rewards.empathy.checkpoint": "e", "rewards.coherence.checkpoint": "c"}
    goals = {"change_in_empathy": "max", "perplexity": "min", "mutual_information": "max", "edit_rate": "min"}

    def incomparable(key: str, *values: Any, **overrides: Any) -> list[str]:
        spec = spec_of(space={key: {"grid": values}}, objectives=goals, overrides=overrides)
        return incomparable_objectives(spec, config_maker(spec, [])).get(key, [])

    assert incomparable(EMPATHY, 1.0, 2.0) == []
    assert incomparable("algorithm.learning_rate", 1e-4, 1e-3) == []
    assert incomparable(LAMBDA, 0.1, 0.5) == ["mutual_information"]
    assert incomparable("rewards.fluency.repetition_penalty", 0.0, 1.0) == []
    assert incomparable("models.reward_lm", "random:llama", "random:gpt2") == ["mutual_information", "perplexity"]
    assert incomparable("seed", 1, 2) == ["change_in_empathy"]
    assert incomparable("seed", 1, 2, **checkpoints) == []
    assert incomparable("data.split_salt", "a", "b") == sorted(goals)


def test_what_no_key_changes_is_made_once(tmp_path):
    config, sweep = load_config("smoke"), SweepFolder(tmp_path)

    def keys(key: str, *overrides: str) -> list[str]:
        spec = spec_of(space={key: {"grid": [1, 2]}})
        return sorted(shared_keys(load_config("smoke", overrides), sweep, shares(spec)))

    rewards = ["rewards.coherence.checkpoint", "rewards.empathy.checkpoint"]
    assert keys(EMPATHY) == [*rewards, "warmstart.checkpoint"]
    assert keys("policy.max_new_tokens") == rewards
    assert keys("warmstart.epochs") == rewards
    assert keys("policy.temperature") == [*rewards, "warmstart.checkpoint"]
    assert keys("reward_training.empathy_epochs") == ["warmstart.checkpoint"]
    assert keys("data.max_train_pairs") == []
    assert keys("seed") == []
    assert keys(EMPATHY, "warmstart.checkpoint=w") == rewards
    assert shared_keys(config, sweep, shares(spec_of()))["warmstart.checkpoint"] == str(tmp_path / "shared/warm_start")


@pytest.mark.parametrize(
    ("key", "values", "what"),
    [
        ("rewards.max_tokens", [32, 48], "changes the scorer"),
        ("models.reward_lm", ["random:llama", "random:gpt2"], "changes the scorer fluency"),
        ("rewards.empathy.score", ["expected", "argmax"], "changes the scorer empathy"),
        ("reward_training.batch_size", [8, 16], "depend on reward_training.batch_size"),
    ],
)
def test_scorers_that_differ_are_not_shared(key, values, what):
    spec = spec_of(space={key: {"grid": values}}, share_rewards=True)

    def check() -> None:
        shares(spec)
        check_scorers(spec, config_maker(spec, []))

    with pytest.raises(PartnerError, match=what):
        check()


def test_the_shared_pool_answers_each_trial_with_its_own_weights():
    base = load_config("smoke")
    run = RunFolder(Path("x"))
    shared = ClientSpec(
        {
            name: PoolSpec(component.definition, (f"a-{name}",), 8)
            for name, component in all_components(base, run.path).items()
        },
        1.0,
        0,
        10,
    )
    config = load_config("smoke", [f"{EMPATHY}=3.0", f"{LAMBDA}=1.0", "rewards.coherence.weight=0.0"])
    own = client_of(shared, config, run)
    assert not own.pools["coherence"].is_active
    assert own.pools["fluency"].actors == ("a-fluency",)
    definition = own.pools["mutual_information"].definition
    request = ScoreRequest("I am low.", "Go out.", "I am sorry.", ("I am sorry.",), ())
    tables = {definition.name: collect_items(definition, [request])}
    values = {definition.name: np.array([[-1.0, -5.0]], np.float32)}
    (breakdown,) = assemble([request], [definition], tables, values)
    assert breakdown.raw == {definition.name: -1.0}
