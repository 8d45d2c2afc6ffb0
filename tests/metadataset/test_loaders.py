"""Meta-datasets by name, as one frame and as a `datasets.Dataset`; and the examples of docs/meta-dataset.md."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ftmeta.errors import MetaDatasetError
from ftmeta.metadataset import MetaDataset, read
from ftmeta.metadataset.loaders import bundled_metadatasets, find, load, to_dataset, to_pandas
from ftmeta.schema import RunResult
from tests.surrogates.synthetic import sweep, write_sweep

GUIDE = Path(__file__).parents[2] / "docs" / "meta-dataset.md"


@pytest.fixture
def meta(tmp_path: Path) -> MetaDataset:
    results = sweep(2, 6)
    crashed = RunResult(replace(results[0].run, status="error", error="no memory", fidelity=0), ())
    write_sweep(tmp_path / "swept", 2, 6, results=[crashed, *results[1:]])
    return read(tmp_path / "swept")


def test_bundled_ones_are_found_by_name_and_others_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "spine" in bundled_metadatasets()
    assert load("spine").fingerprint == read(find("spine")).fingerprint
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path / "spine", 1, 3)
    assert find("spine") != Path("spine")  # the bundled one
    assert len(load("./spine").runs) == 3
    assert len(load(tmp_path / "spine").runs) == 3


@pytest.mark.parametrize("name", ["spin", "../meta/spine", "no/such/folder", ""])
def test_what_is_not_there_is_named_with_what_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MetaDatasetError, match=r"no meta-dataset .*spine|no meta-dataset \(it has no manifest"):
        load(name)


def test_one_row_a_run_and_fidelity(meta: MetaDataset) -> None:
    frame = to_pandas(meta)
    crashed = meta.runs.loc[meta.runs["status"] == "error", "run_id"].item()
    assert len(frame) == len(meta.curves) + 1
    (lost,) = frame[frame["run_id"] == crashed].to_dict("records")
    assert pd.isna(lost["fidelity"])
    assert pd.isna(lost["score"])
    assert lost["error"] == "no memory"
    known = frame[frame["run_id"] != crashed]
    assert known["run_id"].drop_duplicates().tolist() == [one for one in meta.runs["run_id"] if one != crashed]
    wanted = meta.curves.set_index(["run_id", "fidelity"])["score"]
    got = known.set_index(["run_id", "fidelity"])["score"]
    assert got.to_dict() == wanted.to_dict()
    last = known.groupby("run_id")["cost_s"].last()
    total = meta.runs.set_index("run_id")["run_cost_s" if "run_cost_s" in meta.runs else "cost_s"]
    np.testing.assert_allclose(last, total.loc[last.index])
    assert (known.groupby("run_id")["run_cost_s"].nunique() == 1).all()
    features = meta.metafeatures()
    row = known.iloc[0]
    assert row["mf_noise"] == features[row["task"], row["base_model"]]["noise"]


def test_types_do_not_depend_on_the_rows(meta: MetaDataset) -> None:
    whole = to_pandas(meta)
    ia3 = meta.runs[meta.runs["p_peft_method"] == "ia3"]
    assert 0 < len(ia3) < len(meta.runs)
    for part in (ia3, meta.runs[meta.runs["p_peft_method"] != "ia3"], meta.runs.head(0)):
        curves = meta.curves[meta.curves["run_id"].isin(part["run_id"])]
        frame = to_pandas(replace(meta, runs=part, curves=curves))
        assert frame.dtypes.to_dict() == whole.dtypes.to_dict()
    assert str(whole["p_lora_rank"].dtype) == "Int64"
    assert whole.loc[whole["p_peft_method"] == "ia3", "p_lora_rank"].isna().all()


def test_the_dataset_has_what_the_frame_has(meta: MetaDataset) -> None:
    frame, dataset = to_pandas(meta), to_dataset(meta)
    assert dataset.column_names == frame.columns.tolist()
    assert dataset.num_rows == len(frame)
    assert dataset.features["p_lora_rank"].dtype == "int64"
    assert dataset.features["score"].dtype == "float64"
    assert [None if pd.isna(one) else one for one in frame["score"]] == dataset["score"][:]
    assert "finetuning runs" in dataset.info.description
    good = dataset.filter(lambda row: row["score"] is not None and row["score"] > 0.1)
    assert 0 < good.num_rows < dataset.num_rows


def test_the_examples_of_the_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block, one after the other, as a reader would type them; comments say what is printed."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert isinstance(names["meta"], MetaDataset)
    assert isinstance(names["frame"], pd.DataFrame)
