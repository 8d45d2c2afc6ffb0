"""Runs on two nodes survive what machines do: each ends with the curve of one process that nothing happened to.

The pipeline has neither dropout nor noise, so losses and NLLs can be compared to 1e-4 (float32, sums in another order).
What was seen here, with times: docs/reports/finetune-faults.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftmeta import models
from ftmeta.finetune import checkpoint, finetune
from ftmeta.schema import Budget, CurvePoint
from ftmeta.space import load_pipeline, load_space
from ftmeta.tasks import load_task
from tests.cluster.namespaces import why_not_isolated
from tests.cluster.two_nodes import HEAD, NOTICED_SOONER, SECOND, TwoNodes, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TICK_S = 20  # how often the coordinator that elastic runs ask for their size looks at the cluster's nodes (Ray 2.60)
STEPS = {2: 200, 12: 1200}  # of so many epochs of 400 examples, 4 a step
FIDELITIES = 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """A core on each node, so two workers are on two nodes."""
    environment = {
        **NOTICED_SOONER,
        "FTMETA_STATE": str(tmp_path_factory.mktemp("state")),
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    }
    with TwoNodes(tmp_path_factory.mktemp("two"), num_cpus=(1, 1), environment=environment) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def both_nodes(cluster: TwoNodes) -> Iterator[None]:
    """A test that takes the second node away leaves it to this to bring it back."""
    yield
    if cluster.second.main is None or cluster.second.main.poll() is not None:
        cluster.kill_node(power_cut=False)
        cluster.restart_node()
        time.sleep(TICK_S + 1)  # or a run that may take one worker does, because it does not see the node yet


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "exact.yaml"
    values = load_pipeline("strong-default", load_space()).values
    exact = {**values, "lora_dropout": 0.0, "neftune_alpha": 0, "batch_size": 4, "lora_rank": 4}
    exact["lr_multiplier"] = 0.1  # at higher rates 1,200 steps turn the last bits of sums into per cents
    path.write_text(yaml.safe_dump({"space": "lora-v1", "hyperparameters": exact}))
    return path


@pytest.fixture(scope="module")
def curves(pipeline: Path) -> dict[int, list[CurvePoint]]:
    """By epochs: the curve of one process without Ray, and what its adapter scores on the test split."""
    base = models.load(models.resolve("phi3-micro"))
    task, exact = load_task("elements"), load_pipeline(pipeline, load_space())
    found = {}
    for epochs, steps in STEPS.items():
        with finetune(exact, task, base, 0, budget=budget(epochs)) as run:
            found[epochs] = list(run)
            assert run.total_steps == steps
    return found


def budget(epochs: int) -> Budget:
    return Budget(epochs=epochs, max_fidelity=FIDELITIES, eval_examples=16)


@dataclass(frozen=True)
class Run:
    """One command, that may be given more than once: its configuration, and where its results go."""

    cluster: TwoNodes
    config: Path
    out: Path
    epochs: int

    @property
    def unfinished(self) -> Path:
        return self.out.with_name(self.out.name + ".unfinished")

    @property
    def said(self) -> str:
        """Standard error of the last command."""
        return self.config.with_suffix(".err").read_text(encoding="utf-8")

    def checkpoints(self) -> list[int]:
        """Their steps, oldest first."""
        return sorted(int(place.name.removeprefix("step-")) for place in self.unfinished.glob("step-*"))

    def checkpoint(self, step: int) -> Path:
        return self.unfinished / f"step-{step:08d}"

    @contextlib.contextmanager
    def driver(self) -> Iterator[subprocess.Popen[str]]:
        """The command, as a process on the head node that does not outlive the block."""
        command = [sys.executable, "-m", "jobs.finetune", "--config", str(self.config), "--out", str(self.out)]
        with self.config.with_suffix(".err").open("wb") as errors:
            process = self.cluster.driver(command, stderr=errors)
        with process:
            try:
                yield process
            finally:
                process.kill()

    def in_mid_run(self, driver: subprocess.Popen[str], after: int = 0) -> int:
        """Waits until there is a checkpoint later than step `after`, which is returned, with half the run to come."""

        def newest() -> int | None:
            assert driver.poll() is None, self.said
            steps = self.checkpoints()
            return steps[-1] if steps and steps[-1] > after else None

        step = int(wait_for(newest, 200))
        assert step <= STEPS[self.epochs] // 2
        return step

    def end(self, driver: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
        """The exit code and the document of a run that ends by itself; nothing of it runs on."""
        said, _ = driver.communicate(timeout=400)
        wait_for(lambda: not left_of_training(self.cluster))
        return driver.returncode, json.loads(said) if said else {}

    def end_well(self, driver: subprocess.Popen[str], wanted: list[CurvePoint]) -> dict[str, Any]:
        """The document of a run that has to end with the curve `wanted`, and to leave its results and nothing else."""
        code, document = self.end(driver)
        assert code == 0, self.said
        assert document["status"] == "ok"
        assert [point["fidelity"] for point in document["curve"]] == list(range(FIDELITIES + 1))
        for found, point in zip(document["curve"], wanted, strict=True):
            for exact in ("step", "examples", "tokens"):
                assert found[exact] == getattr(point, exact)
            for close in ("val_nll", "test_nll", "train_loss"):
                value = getattr(point, close)  # there is no training loss before the training
                wanted_value = value if value is None else pytest.approx(value, rel=1e-4)
                assert found[close] == wanted_value, (point.fidelity, close)
        assert document["test"]["nll"] == pytest.approx(wanted[-1].test_nll, rel=1e-4)
        costs = [point["cost_s"] for point in document["curve"]]
        assert costs == sorted(costs)
        assert document["adapter"] == str(self.out / "adapter")
        assert sorted(path.name for path in self.out.iterdir()) == ["adapter", "pipeline.yaml", "run.json"]
        assert not self.unfinished.exists()
        assert [path.name for path in self.out.parent.iterdir() if path.name != "lost+found"] == [self.out.name]
        return document


def left_of_training(cluster: TwoNodes) -> list[str]:
    """What there is of Ray Train's processes, the controller and our inbox included."""
    names = ("RayTrainWorker", "TrainController", "Inbox", "jobs.finetune")
    found = []
    for node in cluster.nodes:
        for process in node.processes():
            with contextlib.suppress(Exception):
                title = " ".join(process.cmdline())
                found += [title] if any(name in title for name in names) else []
    return found


@pytest.fixture
def make_run(cluster: TwoNodes, pipeline: Path, tmp_path: Path) -> Any:
    def make(out: Path = tmp_path / "out" / "run", epochs: int = 2, **changes: Any) -> Run:
        config = {
            "data": "elements",
            "pipeline": str(pipeline),
            "base_model": "phi3-micro",
            "budget": {"epochs": epochs, "max_fidelity": FIDELITIES, "eval_examples": 16},
            "workers": 2,
            "placement": "SPREAD",
            "micro_batch_tokens": 128,
            "checkpoint_interval_s": 0.5,
            "wait_s": 90,
            **changes,
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        out.parent.mkdir(exist_ok=True)
        return Run(cluster, path, out, epochs)

    return make


def on(cluster: TwoNodes, node: int) -> int:
    """The process of the worker on a node."""
    (pid,) = [worker.pid for worker in cluster.train_workers() if worker.node == node]
    return pid


def test_a_worker_is_killed(cluster: TwoNodes, make_run: Any, curves: Any) -> None:
    run = make_run()
    with run.driver() as driver:
        reached = run.in_mid_run(driver)
        cluster.terminate(on(cluster, SECOND), signal.SIGKILL)
        document = run.end_well(driver, curves[2])
    first, second = document["starts"]
    assert first == {"workers": 2, "step": 0}
    assert second["workers"] == 2
    assert second["step"] >= reached


@pytest.mark.long
def test_a_worker_gets_sigterm(cluster: TwoNodes, make_run: Any, curves: Any) -> None:
    """It is put aside at the next step, long before the next checkpoint would be written."""
    run = make_run(checkpoint_interval_s=300)
    with run.driver() as driver:
        reached = run.in_mid_run(driver)
        cluster.terminate(on(cluster, HEAD))
        document = run.end_well(driver, curves[2])
    first, second = document["starts"]
    assert first["step"] == 0
    assert reached < second["step"] < reached + STEPS[2] // FIDELITIES
    (note,) = document["notes"]
    assert f"put aside at step {second['step']}," in note


@pytest.mark.long
def test_a_node_is_killed_and_the_run_goes_on_with_what_is_left(cluster: TwoNodes, make_run: Any, curves: Any) -> None:
    run = make_run(min_workers=1)
    with run.driver() as driver:
        reached = run.in_mid_run(driver)
        cluster.kill_node(power_cut=False)
        document = run.end_well(driver, curves[2])
    first, second = document["starts"]
    assert first == {"workers": 2, "step": 0}
    assert second["workers"] == 1
    assert second["step"] >= reached


@pytest.mark.long
def test_a_node_is_killed_and_comes_back(cluster: TwoNodes, make_run: Any, curves: Any) -> None:
    run = make_run()
    with run.driver() as driver:
        reached = run.in_mid_run(driver)
        cluster.kill_node(power_cut=False)
        cluster.restart_node()
        document = run.end_well(driver, curves[2])
    assert document["starts"][-1]["workers"] == 2
    assert document["starts"][-1]["step"] >= reached


@pytest.mark.long
def test_a_node_is_about_to_go(cluster: TwoNodes, make_run: Any, curves: Any) -> None:
    """SIGTERM to its `ray start --block`: the node is drained, and Ray Train tells the workers. Many checkpoints, so
    that the run is not over before they have heard of it. Where Ray still counts on the node, they may start there once
    more before it is gone."""
    run = make_run(min_workers=1, epochs=12, checkpoint_interval_s=0.2)
    with run.driver() as driver:
        run.in_mid_run(driver)
        cluster.preempt_node()
        document = run.end_well(driver, curves[12])
    first, *again = document["starts"]
    assert first == {"workers": 2, "step": 0}
    assert again
    assert again[-1]["workers"] == 1
    assert f"put aside at step {again[0]['step']}," in document["notes"][0]
    wait_for(lambda: cluster.second.main is None or cluster.second.main.poll() is not None)


@pytest.mark.long
@pytest.mark.skipif(why_not_isolated() is not None, reason=f"no network namespaces: {why_not_isolated()}")
def test_the_network_is_cut_for_20_s(cluster: TwoNodes, make_run: Any, curves: Any) -> None:
    """As a rule neither Ray nor gloo gives up in that time; if one does, the workers start again from a checkpoint."""
    run = make_run()
    with run.driver() as driver:
        reached = run.in_mid_run(driver)
        cluster.cut_network(20)
        document = run.end_well(driver, curves[2])
    first, *again = document["starts"]
    assert first == {"workers": 2, "step": 0}
    assert all(start["step"] >= reached and start["workers"] == 2 for start in again)


def test_the_job_is_stopped_killed_and_finds_torn_checkpoints(cluster: TwoNodes, make_run: Any, curves: Any) -> None:
    """SIGTERM to the driver; the same command again, its driver killed by SIGKILL; again, with the newest two
    checkpoints torn, and it goes on from the one before."""
    run = make_run(epochs=12, checkpoint_interval_s=1)
    with run.driver() as driver:
        run.in_mid_run(driver)
        driver.send_signal(signal.SIGTERM)
        code, document = run.end(driver)
    assert (code, document["status"], document["adapter"]) == (1, "stopped", None)
    aside = run.checkpoints()[-1]
    assert document["starts"] == [{"workers": 2, "step": 0}]
    assert f"put aside at step {aside}; what is done is kept in {run.unfinished}" in document["error"]
    assert not run.out.exists()

    with run.driver() as driver:
        run.in_mid_run(driver, after=aside)
        driver.kill()
        run.end(driver)
    *_, good, newest = run.checkpoints()
    assert good >= aside, "it has gone on from where it was put aside"

    shutil.copytree(run.checkpoint(newest), run.checkpoint(newest + 1))
    os.truncate(run.checkpoint(newest + 1) / "run.json", 100)
    os.truncate(run.checkpoint(newest) / "state.safetensors", 1000)
    with run.driver() as driver:
        document = run.end_well(driver, curves[12])
    assert document["starts"] == [{"workers": 2, "step": good}]
    first, second = document["notes"]
    assert f"the checkpoint {run.checkpoint(newest + 1).name} is torn, or none that can be used" in first
    assert f"the checkpoint {run.checkpoint(newest).name} is torn" in second


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_the_disk_is_full(cluster: TwoNodes, make_run: Any, curves: Any, small_disk: Path) -> None:
    """The run goes on without checkpoints, and cannot write its adapter; when there is room, it ends well."""
    run = make_run(out=small_disk / "run")
    filler = small_disk / "filler"
    with run.driver() as driver:
        reached = run.in_mid_run(driver)
        fill(filler)
        code, _ = run.end(driver)
    assert code == 1
    assert "could not be written" in run.said
    *_, error = [line for line in run.said.splitlines() if line.startswith("error: ")]
    assert f"the run has come to its end, but {run.out} could not be written" in error
    assert "No space left on device" in error
    assert "the same command goes on from there" in error
    assert "Traceback" not in run.said
    assert not run.out.exists()
    kept = run.checkpoints()
    assert kept[-1] >= reached
    for step in kept:
        run_id = json.loads((run.checkpoint(step) / "run.json").read_text(encoding="utf-8"))["run_id"]
        assert checkpoint.load(run.checkpoint(step), run_id)[0].step == step  # none is torn
    assert not [path for path in run.unfinished.iterdir() if path.name.startswith(".")]

    filler.unlink()
    with run.driver() as driver:
        document = run.end_well(driver, curves[2])
    assert document["starts"] == [{"workers": 2, "step": kept[-1]}]


def fill(path: Path) -> None:
    """To the last byte: the file grows until there is no room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


def test_more_workers_than_the_cluster_has(make_run: Any) -> None:
    run = make_run(workers=3, wait_s=2)
    with run.driver() as driver:
        code, document = run.end(driver)
    assert (code, document) == (2, {})
    assert "3 workers with 1 CPU each were asked for, and the cluster has places for 2: 1 are missing" in run.said
    assert "(waited 2 s)" in run.said
    assert "Traceback" not in run.said
    assert list(run.out.parent.iterdir()) == []


def test_the_smoke_run_as_a_submitted_job_uses_both_nodes(cluster: TwoNodes) -> None:
    job = ("python", "-m", "jobs.finetune", "--config", "jobs/configs/finetune-smoke.yaml")
    submit = ["ray", "job", "submit", "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml", "--", *job]
    with cluster.driver(submit) as driver:
        wait_for(lambda: {worker.node for worker in cluster.train_workers()} == {HEAD, SECOND})
        said, complaint = driver.communicate(timeout=400)
    assert driver.returncode == 0, said + complaint
    document = json.loads(said[said.index("\n{\n") : said.index("\n}\n") + 2])
    assert (document["status"], document["workers"], document["zero_stage"]) == ("ok", 2, 2)
    assert document["starts"] == [{"workers": 2, "step": 0}]
    assert sorted(path.name for path in Path(document["adapter"]).iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    wait_for(lambda: not left_of_training(cluster))
