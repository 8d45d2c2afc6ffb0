"""The report on a meta-dataset, its plots, and what is bundled of a sweep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

from ftmeta.errors import MetaDatasetError, UserError
from ftmeta.files import DATA
from ftmeta.metadataset import MetaDataset, read
from ftmeta.metadataset.about import About, load_about
from ftmeta.metadataset.card import card
from ftmeta.schema import RunResult
from ftmeta.space import load_space, named_pipelines
from jobs import report_metadata
from jobs.metadata_report import bundle
from jobs.metadata_report.findings import findings
from jobs.metadata_report.page import markdown
from jobs.metadata_report.plots import _rounded, draw
from tests.surrogates.synthetic import HARDWARE, run_result, task_metafeatures, write_sweep

SPACE = load_space()
ABOUT = DATA / "meta" / "phi3-micro" / "about.yaml"
PLOTS = ("curves", "cost", "replicates", "regret", "importance")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks, 24 pipelines, the first three with further seeds, on two devices."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("sweep")
    pipelines = [*named_pipelines(SPACE).values(), *SPACE.sample(22, seed=0)]
    results = []
    for k, pipeline in enumerate(pipelines):
        for seed in (0, 1, 2) if k < 3 else (0,):
            for task, mf in task_metafeatures(3).items():
                one = run_result(pipeline, task, mf, SPACE, seed=seed, rng=rng)
                first = replace(one.curve[0], cost_eval_s=3.0 if k % 2 else 2.0)
                run = replace(one.run, device="slow" if k % 2 else "fast")
                results.append(RunResult(run, (first, *one.curve[1:])))
    write_sweep(folder, 3, 0, results=results, hardware={"fast": HARDWARE, "slow": None})
    return folder


@pytest.fixture(scope="module")
def meta(sweep: Path) -> MetaDataset:
    return read(sweep)


@pytest.fixture(scope="module")
def found(meta: MetaDataset) -> dict[str, Any]:
    return findings(meta)


def test_findings_are_one_json_document(found: dict[str, Any]) -> None:
    json.dumps(found, allow_nan=False)
    assert [one["device"] for one in found["machines"]] == ["fast", "slow"]
    assert found["machines"][1]["relative_cost"] == 1.5
    (room,) = found["head_room"]
    assert room["pipelines"] == 24
    assert set(room["regret"]) == {"static", "static_of_others", "default", "strong-default"}
    assert room["rank_correlation"]["task0"]["task0"] == 1.0
    assert len(found["importance"]["tasks"]) == 3
    assert found["importance_better_half"] is None  # twelve pipelines are too few


def test_the_page_and_its_plots(meta: MetaDataset, found: dict[str, Any], tmp_path: Path) -> None:
    plots = draw(found, meta, tmp_path / "metadata.md")
    assert tuple(plots) == PLOTS
    for path in plots.values():
        assert path.stat().st_size < 200_000
        ElementTree.parse(path)  # well-formed after the rounding
    page = markdown(found, meta, About(title="A sweep", licence="cc-by-4.0"), plots, "make it")
    assert page.startswith("# A sweep: what it shows\n")
    for name in PLOTS:
        assert f"](metadata-{name}.svg)" in page
    assert f"R² on held-out pipelines is {found['importance']['mean']['r2']:.2f} in the mean" in page
    assert "Costs are put on the seconds of the device with the most runs" in page
    assert page.index("## Tasks") < page.index("metadata-curves") < page.index("## Between seeds")
    assert page.index("## Which hyperparameters") < page.index("## Known limits") < page.index("## Licence")
    for table in page.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_plots_are_the_same_every_time(meta: MetaDataset, found: dict[str, Any], tmp_path: Path) -> None:
    once, again = (draw(found, meta, tmp_path / name / "m.md") for name in ("a", "b"))
    for name in PLOTS:
        assert once[name].read_bytes() == again[name].read_bytes()


def test_what_is_not_known_is_not_drawn(sweep: Path, tmp_path: Path) -> None:
    meta = read(sweep)
    one = meta.runs[(meta.runs["task"] == "task0") & (meta.runs["seed"] == 0)].head(5).assign(cost_s=None, device=None)
    poor = replace(meta, runs=one, manifest={**meta.manifest, "hardware": {}})
    found = findings(poor)
    plots = draw(found, poor, tmp_path / "m.md")
    assert set(plots) == {"curves"}
    page = markdown(found, poor, About(), plots, "make it")
    assert "Head-room" not in page
    assert "hyperparameters the score depends on" not in page
    empty = replace(poor, curves=poor.curves.head(0))
    assert set(draw(findings(empty), empty, tmp_path / "empty.md")) <= {"curves"}


def test_coordinates_are_rounded_and_lines_stay_lines() -> None:
    svg = '<path d="M 1.234567 2.0 \nL 3.96 -0.04 \n" clip-path="url(#p)"/><g transform="scale(0.015625)"/>'
    assert _rounded(svg) == '<path d="M 1.2 2 4 -0 \n" clip-path="url(#p)"/><g transform="scale(0.015625)"/>'


def test_the_job_writes_everything(sweep: Path, tmp_path: Path) -> None:
    app = report_metadata.typer.Typer()
    app.command()(report_metadata.main)
    done = CliRunner().invoke(app, ["--metadata", str(sweep), "--out", str(tmp_path / "r" / "metadata.md")])
    assert done.exit_code == 0, done.output
    written = sorted(path.name for path in (tmp_path / "r").iterdir())
    assert written == sorted(["metadata.md", "metadata.json", *(f"metadata-{name}.svg" for name in PLOTS)])
    with pytest.raises(MetaDatasetError, match="no meta-dataset 'nowhere'"):
        report_metadata.main("nowhere", tmp_path / "x.md", 0)


def test_a_sweep_is_bundled_with_its_card(sweep: Path, tmp_path: Path) -> None:
    (sweep / "ledger").mkdir(exist_ok=True)
    out = tmp_path / "meta" / "phi3-micro"
    size = bundle.bundle(sweep, ABOUT, out)
    names = ["about.yaml", "card.md", "curves.parquet", "manifest.json", "runs.parquet", "space.yaml", "tasks.parquet"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert size == sum(path.stat().st_size for path in out.iterdir())
    assert read(out).fingerprint == read(sweep).fingerprint
    written = (out / "card.md").read_text(encoding="utf-8")
    assert written == card(read(out), load_about(out))
    assert "license: cc-by-4.0" in written
    assert "collect-phi3-micro.yaml" in written
    (out / "card.md").write_text("old")
    bundle.write_card(out)
    assert (out / "card.md").read_text(encoding="utf-8") == written
    assert bundle.bundle(sweep, ABOUT, out) == size  # again, over what is there


def test_what_must_not_ship_is_not_bundled(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="is no file; give --about"):
        bundle.bundle(sweep, tmp_path / "nothing.yaml", tmp_path / "out")
    monkeypatch.setattr(bundle, "MAX_BYTES", 1000)
    with pytest.raises(MetaDatasetError, match="and 1,000 are the most"):
        bundle.bundle(sweep, ABOUT, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    mf = task_metafeatures(1)["task0"]
    one = run_result(SPACE.default(), "task0", mf, SPACE)
    failed = RunResult(replace(one.run, status="error", error="FileNotFoundError: /home/me/cache/x"), one.curve)
    write_sweep(tmp_path / "failed", 1, 0, results=[failed])
    with pytest.raises(MetaDatasetError, match="names the path /home/me/cache/x"):
        bundle.bundle(tmp_path / "failed", ABOUT, tmp_path / "out")
