"""What `make demo` relies on and would only find out after minutes."""

from pathlib import Path

from ftmeta.files import DATA
from ftmeta.metadataset import read
from ftmeta.orchestrate.sweep import load_sweep, make_plan

SWEEP = Path(__file__).parents[1] / "jobs" / "configs" / "collect-demo.yaml"


def test_the_sweep_of_the_demo_can_be_learned_from_together_with_the_bundled_runs() -> None:
    plan, bundled = make_plan(load_sweep(SWEEP)), read(DATA / "meta" / "spine")
    known = dict(bundled.runs[["task", "task_fingerprint"]].drop_duplicates().itertuples(index=False))
    shared = known.keys() & plan.tasks.keys()
    assert shared
    assert {name: plan.tasks[name].fingerprint for name in shared} == {name: known[name] for name in shared}
    assert plan.budget == bundled.budget
    assert "web-platform" not in known.keys() | plan.tasks.keys(), "the demo asks about it as a dataset never seen"


def test_the_pipelines_of_the_demo_are_new() -> None:
    plan, bundled = make_plan(load_sweep(SWEEP)), read(DATA / "meta" / "spine")
    assert not {run.pipeline.id for run in plan.runs} & {pipeline.id for pipeline in bundled.pipelines().values()}
