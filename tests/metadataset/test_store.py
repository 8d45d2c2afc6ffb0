from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftmeta.errors import MetaDatasetError
from ftmeta.hardware import load_hardware
from ftmeta.metadataset import describe, join, read, write
from ftmeta.schema import RunResult
from ftmeta.space import load_space, parse_space
from tests.surrogates.synthetic import BASE_MODEL, HARDWARE, run_result, sweep, task_metafeatures

SPACE = load_space()
TASKS = task_metafeatures(2)
RESULTS = sweep(2, 6)
FACTS: dict[str, Any] = {
    "space": SPACE,
    "metafeatures": {(task, BASE_MODEL.name): mf for task, mf in TASKS.items()},
    "base_models": {BASE_MODEL.name: BASE_MODEL},
    "hardware": {"cpu": HARDWARE},
    "budget": SPACE.budget(),
}


def test_tables_have_the_promised_columns(tmp_path: Path) -> None:
    write(tmp_path / "meta", RESULTS, **FACTS)
    meta = read(tmp_path / "meta")
    promised_runs = [
        *("run_id", "task", "base_model", "seed", "status", "error", "max_fidelity", "fidelity", "cost_s", "wall_s"),
        *("peak_memory_gb", "device", "code_version", "task_fingerprint", "base_model_fingerprint", "space"),
        "started_at",
    ]
    promised_curves = [
        *("run_id", "fidelity", "step", "examples", "tokens", "score", "val_nll", "val_token_accuracy", "test_score"),
        *("test_nll", "train_loss", "cost_train_s", "cost_eval_s", "cost_s", "wall_s"),
    ]
    assert list(meta.runs.columns[: len(promised_runs)]) == promised_runs
    assert [c for c in meta.runs.columns if c.startswith("p_")] == [f"p_{name}" for name in SPACE.hyperparameters]
    assert list(meta.curves.columns) == promised_curves
    assert list(meta.tasks.columns[:1]) == ["task"]
    assert all(c.startswith("mf_") for c in meta.tasks.columns[2:])
    schema = pq.read_schema(tmp_path / "meta" / "runs.parquet")
    assert schema.field("p_lora_rank").type == pa.int64()
    assert schema.field("p_alpha_per_rank").type == pa.float64()
    assert schema.field("p_peft_method").type == pa.string()


def test_pipelines_and_metafeatures_survive(tmp_path: Path) -> None:
    write(tmp_path, RESULTS, **FACTS)
    meta = read(tmp_path)
    assert meta.pipelines() == {result.run.run_id: result.run.pipeline for result in sorted(RESULTS, key=_id)}
    assert {pipeline.id for pipeline in meta.pipelines().values()} == {result.run.pipeline.id for result in RESULTS}
    assert meta.metafeatures() == FACTS["metafeatures"]
    assert meta.hardware == {"cpu": HARDWARE}
    assert meta.budget == SPACE.budget()
    assert meta.shapes == {BASE_MODEL.name: BASE_MODEL.shape}


def test_the_fingerprint_is_of_the_content_not_of_the_order(tmp_path: Path) -> None:
    first = write(tmp_path / "a", RESULTS, **FACTS)
    shuffled = random.Random(0).sample(RESULTS, len(RESULTS))
    assert write(tmp_path / "b", shuffled, **FACTS)["fingerprint"] == first["fingerprint"]
    changed = [*RESULTS[1:], RunResult(replace(RESULTS[0].run, cost_s=99.0), RESULTS[0].curve)]
    assert write(tmp_path / "c", changed, **FACTS)["fingerprint"] != first["fingerprint"]


def test_describe_and_card_say_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, RESULTS, **FACTS)
    described = describe(tmp_path)
    assert described["runs"] == 12
    assert described["tasks"] == ["task0", "task1"]
    assert described["pipelines"] == 6
    assert described["fidelities"] == 10
    assert sum(described["statuses"].values()) == 12
    assert described["cost_s"] == pytest.approx(sum(result.run.cost_s for result in RESULTS), abs=1e-3)
    card = (tmp_path / "card.md").read_text()
    assert "12 finetuning runs: 2 tasks, 6 pipelines" in card
    assert "Noise: unknown" in card
    assert "| task1 | 6 |" in card


def test_the_card_estimates_noise_from_replicates(tmp_path: Path) -> None:
    pipeline = SPACE.default()
    again = [run_result(pipeline, "task0", TASKS["task0"], SPACE, seed=seed) for seed in range(3)]
    scores = iter([0.40, 0.42, 0.44])
    again = [
        RunResult(one.run, (*one.curve[:-1], replace(one.curve[-1], score=score)))
        for one, score in zip(again, scores, strict=True)
    ]
    write(tmp_path, again, **FACTS)
    assert "Noise: 0.0200" in (tmp_path / "card.md").read_text()


def test_join_keeps_each_run_once(tmp_path: Path) -> None:
    write(tmp_path / "whole", RESULTS, **FACTS)
    write(tmp_path / "a", RESULTS[:7], **FACTS)
    write(tmp_path / "b", RESULTS[5:], **FACTS)
    joined, whole = join([read(tmp_path / "a"), read(tmp_path / "b")]), read(tmp_path / "whole")
    assert joined.fingerprint == whole.fingerprint
    assert joined.pipelines() == whole.pipelines()


def test_join_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    write(tmp_path / "a", RESULTS[:6], **FACTS)
    write(tmp_path / "b", RESULTS[6:], **{**FACTS, "budget": SPACE.budget(eval_examples=50)})
    with pytest.raises(MetaDatasetError, match="another budget"):
        join([read(tmp_path / "a"), read(tmp_path / "b")])
    for what, said in (("task_fingerprint", "task task0"), ("base_model_fingerprint", "task task0")):
        changed = [RunResult(replace(one.run, **{what: "another"}), one.curve) for one in RESULTS[:6]]
        write(tmp_path / what, changed, **FACTS)
        with pytest.raises(MetaDatasetError, match=f"{said} with {BASE_MODEL.name} has another content"):
            join([read(tmp_path / "a"), read(tmp_path / what)])
    write(
        tmp_path / "d", RESULTS[6:], **{**FACTS, "base_models": {BASE_MODEL.name: replace(BASE_MODEL, fingerprint="")}}
    )
    with pytest.raises(MetaDatasetError, match=f"base model {BASE_MODEL.name} has another content"):
        join([read(tmp_path / "a"), read(tmp_path / "d")])


def test_what_machines_compute_a_little_differently_can_be_joined(tmp_path: Path) -> None:
    write(tmp_path / "a", RESULTS[:6], **FACTS)
    features = {key: {**mf, "zero_shot_nll": mf["zero_shot_nll"] + 1e-9} for key, mf in FACTS["metafeatures"].items()}
    model = replace(BASE_MODEL, reference_lr=BASE_MODEL.reference_lr * (1 + 1e-15))
    write(
        tmp_path / "b",
        RESULTS[:8],
        **{**FACTS, "metafeatures": features, "base_models": {BASE_MODEL.name: model}},
    )
    joined = join([read(tmp_path / "a"), read(tmp_path / "b")])
    pairs = [(task, BASE_MODEL.name) for task in ("task0", "task1")]
    assert joined.metafeatures() == {pairs[0]: FACTS["metafeatures"][pairs[0]], pairs[1]: features[pairs[1]]}
    assert joined.manifest["base_models"] == read(tmp_path / "a").manifest["base_models"]


def test_a_mixed_cluster_s_devices_are_kept_apart(tmp_path: Path) -> None:
    mixed = [
        RunResult(replace(one.run, device=device), one.curve)
        for one, device in zip(RESULTS, 4 * ["cpu", "NVIDIA L4", "unknown"], strict=True)
    ]
    l4 = load_hardware("l4")
    write(tmp_path / "a", mixed, **{**FACTS, "hardware": {"cpu": HARDWARE, "NVIDIA L4": l4, "unknown": None}})
    assert read(tmp_path / "a").hardware == {"cpu": HARDWARE, "NVIDIA L4": l4}
    with pytest.raises(MetaDatasetError, match="the hardware of device 'NVIDIA L4'"):
        write(tmp_path / "b", mixed, **FACTS)


def test_runs_of_several_devices_can_be_joined(tmp_path: Path) -> None:
    write(tmp_path / "a", RESULTS[:6], **FACTS)
    gpu = [RunResult(replace(one.run, device="NVIDIA L4"), one.curve) for one in RESULTS[6:]]
    write(tmp_path / "b", gpu, **{**FACTS, "hardware": {"NVIDIA L4": load_hardware("l4")}})
    joined = join([read(tmp_path / "a"), read(tmp_path / "b")])
    assert {device: profile.name for device, profile in joined.hardware.items()} == {
        "cpu": "cpu-core",
        "NVIDIA L4": "l4",
    }
    assert joined.name == "a+b"
    assert len(joined.runs) == 12
    alone = read(tmp_path / "a")
    assert join([alone]) is alone


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(MetaDatasetError, match="no runs"):
        write(tmp_path / "x", [], **FACTS)
    with pytest.raises(MetaDatasetError, match=f"run {RESULTS[0].run.run_id} is given 2 times"):
        write(tmp_path / "x", [*RESULTS, RESULTS[0]], **FACTS)
    other = parse_space(
        "name: other\nmax_fidelity: 10\nhyperparameters:\n  a: {type: int, low: 1, high: 3, default: 2}", ""
    )
    with pytest.raises(MetaDatasetError, match="write runs of one kind"):
        write(tmp_path / "x", RESULTS, **{**FACTS, "space": other})
    with pytest.raises(MetaDatasetError, match="no meta-features are given for task 'task1'"):
        write(tmp_path / "x", RESULTS, **{**FACTS, "metafeatures": {("task0", BASE_MODEL.name): {}}})
    assert not (tmp_path / "x").exists()


def test_missing_torn_and_edited_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MetaDatasetError, match="is no meta-dataset"):
        read(tmp_path)
    write(tmp_path, RESULTS, **FACTS)
    runs = (tmp_path / "runs.parquet").read_bytes()
    (tmp_path / "runs.parquet").write_bytes(runs[: len(runs) // 2])
    with pytest.raises(MetaDatasetError, match=r"torn: runs\.parquet cannot be read"):
        read(tmp_path)
    pq.write_table(pq.read_table(pa.BufferReader(runs)).slice(0, 5), tmp_path / "runs.parquet")
    with pytest.raises(MetaDatasetError, match="has 5 rows and the manifest says 12"):
        read(tmp_path)
    table = pq.read_table(pa.BufferReader(runs))
    edited = table.set_column(table.column_names.index("cost_s"), "cost_s", pa.array([1.0] * 12))
    pq.write_table(edited, tmp_path / "runs.parquet")
    with pytest.raises(MetaDatasetError, match="not those that the manifest was made of"):
        read(tmp_path)
    (tmp_path / "runs.parquet").write_bytes(runs)
    read(tmp_path)
    (tmp_path / "space.yaml").write_text((tmp_path / "space.yaml").read_text().replace("default: 16", "default: 8"))
    with pytest.raises(MetaDatasetError, match="is not the search space"):
        read(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(MetaDatasetError, match="version 99"):
        read(tmp_path)


def _id(result: RunResult) -> str:
    return result.run.run_id
