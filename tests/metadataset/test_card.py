"""The card: what it says of devices, noise and head-room, and that whatever a meta-dataset lacks is no error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ftmeta.errors import MetaDatasetError
from ftmeta.metadataset import MetaDataset, read
from ftmeta.metadataset.about import About, load_about
from ftmeta.metadataset.card import card, sections
from ftmeta.metadataset.headroom import head_room
from ftmeta.metadataset.loaders import bundled_metadatasets, find
from ftmeta.metadataset.machines import machines
from ftmeta.metadataset.noise import noise_of, pooled
from ftmeta.schema import RunResult
from ftmeta.space import load_space, named_pipelines
from tests.surrogates.synthetic import HARDWARE, run_result, task_metafeatures, write_sweep

SPACE = load_space()
TASKS = task_metafeatures(3)
PIPELINES = [*named_pipelines(SPACE).values(), *SPACE.sample(6, seed=1)]


def _with_end(result: RunResult, score: float, **run: Any) -> RunResult:
    """The run with another score at its end (the test score 0.01 less), which it reaches."""
    last = replace(result.curve[-1], fidelity=SPACE.max_fidelity, score=score, test_score=score - 0.01)
    ended = replace(result.run, status="ok", fidelity=SPACE.max_fidelity, error=None, **run)
    return RunResult(ended, (*result.curve[:-1], last))


def _results() -> list[RunResult]:
    """Every pipeline on every task; the first two with three seeds, whose scores differ by 0, +0.02 and -0.02."""
    rng = np.random.default_rng(0)
    results = []
    for k, pipeline in enumerate(PIPELINES):
        for t, (task, mf) in enumerate(TASKS.items()):
            for seed, luck in ((0, 0.0), (1, 0.02), (2, -0.02)) if k < 2 else ((0, 0.0),):
                one = run_result(pipeline, task, mf, SPACE, seed=seed, rng=rng)
                results.append(_with_end(one, 0.2 + 0.05 * ((k + 3 * t) % 8) + luck, cost_s=100.0 + 10 * seed))
    return results


def _on_two_devices(results: list[RunResult]) -> list[RunResult]:
    """The runs of seed 0 on `fast`, those of others on `slow`, where a validation pass costs half as much again."""
    moved = []
    for result in results:
        slow = result.run.seed > 0
        first = replace(result.curve[0], cost_eval_s=3.0 if slow else 2.0)
        device = "slow" if slow else "fast"
        moved.append(RunResult(replace(result.run, device=device), (first, *result.curve[1:])))
    return moved


@pytest.fixture
def meta(tmp_path: Path) -> MetaDataset:
    write_sweep(tmp_path / "swept", 3, 0, results=_results())
    return read(tmp_path / "swept")


def test_noise_is_what_the_seeds_differ_by(meta: MetaDataset) -> None:
    noise = noise_of(meta)
    assert [(one.task, one.pipelines, one.degrees) for one in noise] == [(f"task{t}", 2, 4) for t in range(3)]
    assert noise[0].score == pytest.approx(0.02)
    assert noise[0].test_score == pytest.approx(0.02)
    assert noise[0].correlation == pytest.approx(1.0)
    assert noise[0].cost == pytest.approx(float(np.std(np.log([100, 110, 120]), ddof=1)))
    assert pooled(noise, "score") == pytest.approx(0.02)
    assert pooled([], "score") is None


def test_costs_on_different_devices_are_no_noise(tmp_path: Path) -> None:
    hardware = {"fast": HARDWARE, "slow": None}
    write_sweep(tmp_path, 3, 0, results=_on_two_devices(_results()), hardware=hardware)
    meta = read(tmp_path)
    first = noise_of(meta)[0]
    assert first.cost == pytest.approx(float(np.std(np.log([110, 120]), ddof=1)))  # seeds 1 and 2, both on `slow`
    assert first.cost_degrees == 2
    fast, slow = machines(meta)
    assert (fast.device, fast.runs, fast.profile, fast.relative_cost) == ("fast", 24, "cpu-core", 1.0)
    assert (slow.device, slow.runs, slow.profile) == ("slow", 12, None)
    assert slow.relative_cost == pytest.approx(1.5)
    assert slow.spread == (1.0, 1.0)
    few = replace(meta, runs=meta.runs.drop_duplicates(["task", "device"]))
    assert [one.spread for one in machines(few)] == [None, None]  # one run a task says nothing of a spread
    written = card(meta)
    assert "| slow | – | 12 | 1,380 | 1.50 | 1.00 to 1.00 |" in written
    assert "comparable only within one" in written


def test_a_pipeline_that_diverges_with_one_seed_only_is_counted(tmp_path: Path) -> None:
    results = _results()
    gone = next(at for at, one in enumerate(results) if one.run.seed == 2)
    results[gone] = RunResult(replace(results[gone].run, status="diverged"), results[gone].curve)
    write_sweep(tmp_path, 3, 0, results=results)
    meta = read(tmp_path)
    assert sum(one.undecided for one in noise_of(meta)) == 1
    assert noise_of(meta)[0].degrees == 3  # the run that diverged is not in the standard deviation
    assert "Of 1 pair some seeds diverged and others did not." in card(meta)


def test_head_room_is_measured_against_the_noise(meta: MetaDataset) -> None:
    (room,) = head_room(meta)
    assert room.left_out == 0
    assert set(room.regret) == {"static", "static_of_others", "default", "strong-default"}
    span = 0.35  # scores go from 0.20 to 0.55 on each task
    np.testing.assert_allclose(room.noise_T, 2 * 2**0.5 * 0.02 / span, rtol=1e-6)
    assert np.all((room.luck_T >= 0) & (room.luck_T < 0.02 / span))
    assert set(room.above_noise("strong-default")) <= set(room.scores.tasks)
    strong = room.scores.pipelines.index(named_pipelines(SPACE)["strong-default"])
    lost = (room.scores.test_TP.max(axis=1) - room.scores.test_TP[:, strong]) / span
    np.testing.assert_allclose(room.regret["strong-default"], lost, atol=1e-6)  # validation and test rank alike here
    written = card(meta)
    assert f"the best static on {len(room.above_noise('static'))}" in written
    assert "Compared: 8 pipelines on 3 tasks." in written


def test_the_card_tells_the_story(meta: MetaDataset) -> None:
    about = About(title="A sweep", story="Made for a test.", licence="cc-by-4.0", recollect="do it", limits=("small",))
    written = card(meta, about)
    for said in (
        "# A sweep\n",
        "Made for a test.",
        "36 finetuning runs: 3 tasks, 8 pipelines of the space `lora-v1`, base model micro, 3 seeds, 10 fidelities.",
        "- Status: 36 ok.",
        "| task1 | 12 | 12 | 0 | 0 | 0.550 |",
        "Noise: 0.0200 is the standard deviation",
        "- small\n",
        "18 of 24 pairs of task and pipeline were run once.",
        "```sh\ndo it\n```",
        "## Licence\n\ncc-by-4.0",
    ):
        assert said in written
    for table in written.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "Not stated" in card(meta)  # no licence is made up


def test_the_hub_reads_the_front_matter(meta: MetaDataset, tmp_path: Path) -> None:
    import datasets
    from huggingface_hub import DatasetCard

    written = card(meta, About(licence="cc-by-4.0", title="A sweep"))
    data = DatasetCard(written).data
    assert data.license == "cc-by-4.0"
    assert data.pretty_name == "A sweep"
    assert "meta-learning" in data.tags
    folder = tmp_path / "swept"
    (folder / "README.md").write_text(written)  # the name under which the hub looks for the card
    for table, rows in (("runs", 36), ("curves", len(meta.curves)), ("tasks", 3)):
        assert len(datasets.load_dataset(str(folder), table, split="train", cache_dir=str(tmp_path / "cache"))) == rows
    assert len(datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))) == 36


def _without(*columns: str, table: str = "runs") -> Callable[[MetaDataset], MetaDataset]:
    def remove(meta: MetaDataset) -> MetaDataset:
        frame = getattr(meta, table)
        return replace(meta, **{table: frame.assign(**dict.fromkeys(columns))})

    return remove


def _statuses(status: str) -> Callable[[MetaDataset], MetaDataset]:
    return lambda meta: replace(
        meta,
        runs=meta.runs.assign(status=status),
        curves=meta.curves[meta.curves["fidelity"] == 0],
        manifest={**meta.manifest, "statuses": {status: len(meta.runs)}},
    )


def _only(rows: int) -> Callable[[MetaDataset], MetaDataset]:
    return lambda meta: replace(meta, runs=meta.runs.head(rows))


LACKING: dict[str, Callable[[MetaDataset], MetaDataset]] = {
    "costs": _without("cost_s", "wall_s"),
    "costs of the curves": _without("cost_s", "cost_eval_s", "cost_train_s", table="curves"),
    "dates": _without("started_at"),
    "devices": lambda meta: replace(_without("device")(meta), manifest={**meta.manifest, "hardware": {}}),
    "memory": _without("peak_memory_gb"),
    "seeds": _without("seed"),
    "code versions": lambda meta: replace(
        _without("code_version")(meta), manifest={**meta.manifest, "code_versions": []}
    ),
    "test scores": _without("test_score", "test_nll", table="curves"),
    "scores": _without("score", "test_score", table="curves"),
    "curves": lambda meta: replace(meta, curves=meta.curves.head(0)),
    "fidelity 0": lambda meta: replace(meta, curves=meta.curves[meta.curves["fidelity"] > 0]),
    "runs that ended well": _statuses("oom"),
    "runs that did not diverge": _statuses("diverged"),
    "all runs but one": _only(1),
    "all runs but two": _only(2),
    "the space's epochs": lambda meta: replace(meta, space=replace(meta.space, epochs=None)),
    "everything but scores": lambda meta: _without(
        "cost_s", "wall_s", "device", "seed", "started_at", "peak_memory_gb"
    )(_without("cost_s", "cost_eval_s", "test_score", table="curves")(meta)),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_is_lacking_is_left_out(meta: MetaDataset, what: str) -> None:
    written = card(LACKING[what](meta))
    assert written.startswith("---\n")
    assert "nan" not in written.lower().replace("finetuning", "")
    assert "None" not in written
    assert "## Licence" in written
    if what in ("test scores", "scores", "curves", "runs that ended well", "all runs but one"):
        assert "Head-room" not in written
    if what in ("scores", "curves", "runs that ended well", "all runs but one"):
        assert "Noise: unknown" in written


def test_base_models_are_told_apart(tmp_path: Path) -> None:
    results = _results()
    others = [
        RunResult(replace(one.run, base_model="other", run_id=f"{at:016x}"), one.curve)
        for at, one in enumerate(results)
    ]
    models = {"micro": None, "other": None}
    features = {(task, model): mf for task, mf in TASKS.items() for model in models}
    write_sweep(tmp_path, 3, 0, results=[*results, *others], base_models=models, metafeatures=features)
    meta = read(tmp_path)
    assert [room.base_model for room in head_room(meta)] == ["micro", "other"]
    written = card(meta)
    assert "| task0 (other) | 12 |" in written
    assert "base models micro, other" in written


def test_a_space_with_a_known_name_and_other_hyperparameters_has_no_defaults(meta: MetaDataset) -> None:
    fewer = {name: domain for name, domain in SPACE.domains.items() if name != "loss_on"}
    runs = meta.runs.drop(columns="p_loss_on")
    (room,) = head_room(replace(meta, space=replace(meta.space, domains=fewer), runs=runs))
    assert set(room.regret) == {"static", "static_of_others"}


def test_imported_tables_say_so(meta: MetaDataset) -> None:
    facts = {
        "source": "the tables a.csv and b.csv",
        "scales": {"task0": {"low": -2.0, "high": 40.0, "clipped": 3}},
        "rejected": {"runs": 2, "curves": 1},
        "notes": ["Costs are durations."],
    }
    written = sections(replace(meta, manifest={**meta.manifest, "imported": facts}), About())
    assert (
        "Imported from the tables a.csv and b.csv; 3 rows could not be used. Costs are durations."
        in written["imported"]
    )
    assert "| task0 | -2 | 40 | 3 |" in written["imported"]
    assert "Full budget" not in written["origin"]  # a foreign budget is not known
    plain = sections(replace(meta, manifest={**meta.manifest, "imported": {**facts, "scales": None}}), About())
    assert "Scores are as they were given." in plain["imported"]


def test_about_is_read_or_refused(tmp_path: Path) -> None:
    assert load_about(tmp_path) == About()
    (tmp_path / "about.yaml").write_text(yaml.safe_dump({"title": "T", "limits": ["a", "b"]}))
    assert load_about(tmp_path) == About(title="T", limits=("a", "b"))
    for text, said in (
        ("licens: mit", "licens: .*it may have title, story"),
        ("{", "is not YAML"),
        ("[1]", "the file"),
    ):
        (tmp_path / "about.yaml").write_text(text)
        with pytest.raises(MetaDatasetError, match=said):
            load_about(tmp_path)


def test_bundled_cards_are_those_of_their_tables() -> None:
    """After a change of card.py: jobs.metadata_report.bundle.write_card."""
    for name in bundled_metadatasets():
        folder = find(name)
        if (folder / "about.yaml").is_file():
            assert (folder / "card.md").read_text(encoding="utf-8") == card(read(folder), load_about(folder)), name


def test_findings_are_plain_values(meta: MetaDataset) -> None:
    json.dumps([asdict(one) for one in (*noise_of(meta), *machines(meta))], allow_nan=False)
