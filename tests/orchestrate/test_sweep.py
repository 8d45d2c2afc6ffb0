"""Sweep files: what is refused and how, and which runs a sweep consists of."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftmeta.errors import ConfigError, UserError
from ftmeta.orchestrate.sweep import (
    Pipelines,
    Replicates,
    Sweep,
    load_sweep,
    make_plan,
    spec_from_json,
    spec_to_json,
)
from ftmeta.tasks import bundled_tasks

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("collect*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_sweeps_are_sound(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.name == path.stem
    assert set(sweep.tasks) <= set(bundled_tasks())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ntasks: [elements]\npipelins: {sample: 3}\n", "pipelins.*known keys: name, space, tasks"),
        ("name: x\ntasks: []\n", "tasks"),
        ("name: ../x\ntasks: [elements]\n", "name"),
        ("name: x\ntasks: [elements]\nbudget: {epochs: 0}\n", "budget.epochs"),
        ("- name: x\n", "no mapping"),
        ("name: [x\n", "not YAML"),
    ],
)
def test_a_malformed_sweep_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_sweep(tmp_path / "sweep.yaml")


def test_a_missing_sweep_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml cannot be read"):
        load_sweep(tmp_path / "absent.yaml")


def test_the_plan_is_every_pipeline_on_every_task_with_every_seed_once() -> None:
    wanted = Pipelines(sample=3, seed=0, include=["default", "default", "strong-default"])
    sweep = Sweep(name="x", tasks=["elements", "world-facts"], pipelines=wanted, seeds=[0, 1, 1])
    plan = make_plan(sweep)
    assert len(plan.runs) == 5 * 2 * 2
    assert len({spec.run_id for spec in plan.runs}) == len(plan.runs)
    first = plan.runs[:4]  # a pipeline is finished on all tasks before the next one starts
    assert {spec.pipeline.id for spec in first} == {plan.runs[0].pipeline.id}
    assert [(spec.task, spec.seed) for spec in first] == [
        ("elements", 0),
        ("world-facts", 0),
        ("elements", 1),
        ("world-facts", 1),
    ]
    assert make_plan(sweep).runs == plan.runs


def test_the_budget_is_the_spaces_with_the_sweeps_changes() -> None:
    plan = make_plan(Sweep(name="x", tasks=["elements"], budget={"max_fidelity": 2, "max_train_examples": 50}))  # type: ignore[arg-type]
    assert plan.budget.max_fidelity == 2
    assert plan.budget.max_train_examples == 50
    assert plan.budget.epochs == plan.space.epochs
    assert plan.runs[0].budget == plan.budget


def test_a_named_pipeline_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        "name: x\ntasks: [elements]\npipelines:\n  include:\n    - strong-default\n"
        "    - {like: strong-default, but: {lora_rank: 4, lr_multiplier: 2}}\n"
        "    - {like: strong-default, but: {peft_method: ia3}}\n"
    )
    strong, low_rank, ia3 = (spec.pipeline.values for spec in make_plan(load_sweep(tmp_path / "sweep.yaml")).runs)
    assert low_rank == {**strong, "lora_rank": 4, "lr_multiplier": 2.0}
    assert "lora_rank" not in ia3  # the change made it inactive


@pytest.mark.parametrize(
    ("but", "said"),
    [({"lora_rnk": 4}, "lora_rnk.*did you mean 'lora_rank'"), ({"peft_method": "ia3", "lora_rank": 4}, "lora_rank")],
)
def test_a_change_that_the_space_does_not_have_is_refused(but: dict[str, int | str], said: str) -> None:
    changed = {"like": "strong-default", "but": but}
    with pytest.raises(UserError, match=said):
        make_plan(Sweep(name="x", tasks=["elements"], pipelines={"include": [changed]}))  # type: ignore[arg-type]


def test_what_cannot_be_found_is_said() -> None:
    with pytest.raises(ConfigError, match="names no pipeline"):
        make_plan(Sweep(name="x", tasks=["elements"], pipelines=Pipelines()))
    with pytest.raises(ConfigError, match="two tasks are called elements"):
        make_plan(Sweep(name="x", tasks=["elements", "elements"]))
    with pytest.raises(UserError, match="no-such-model"):
        make_plan(Sweep(name="x", tasks=["elements"], base_model="no-such-model"))


def test_a_run_survives_the_way_to_a_worker() -> None:
    for spec in make_plan(Sweep(name="x", tasks=["elements"], pipelines=Pipelines(sample=4))).runs:
        assert spec_from_json(spec_to_json(spec)) == spec


def test_the_fingerprint_says_what_is_run_not_how_many_at_a_time() -> None:
    sweep = Sweep(name="x", tasks=["elements"])
    assert sweep.model_copy(update={"slots": 7}).fingerprint == sweep.fingerprint
    assert sweep.model_copy(update={"seeds": [1]}).fingerprint != sweep.fingerprint


def test_replicates_are_the_first_pipelines_with_further_seeds_and_run_last() -> None:
    sweep = Sweep(
        name="x",
        tasks=["elements", "web-platform"],
        pipelines=Pipelines(include=["default", "strong-default"], sample=3),
        replicates=Replicates(pipelines=2, seeds=[0, 1, 2]),  # seed 0 is there already
    )
    plan = make_plan(sweep)
    ids = list(dict.fromkeys(run.pipeline.id for run in plan.runs))
    assert [run.seed for run in plan.runs] == [0] * 10 + [1, 1, 2, 2] * 2
    assert [run.pipeline.id for run in plan.runs[10:]] == [ids[0]] * 4 + [ids[1]] * 4
    assert [run.task for run in plan.runs] == ["elements", "web-platform"] * 9
    assert len({run.run_id for run in plan.runs}) == 18
