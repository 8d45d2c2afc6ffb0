"""Jobs from outside, and what becomes of sweeps and of the service when machines go: a worker, and the head itself.

One cluster for all tests of this file, which follow each other: a head without tasks, two workers, Redis, a computer
outside; each in a network namespace of its own (machines.py). `ftmeta doctor --cluster` looks at what is there then.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ftmeta import metadataset
from ftmeta.metadataset import Ledger
from ftmeta.orchestrate.sweep import load_sweep, make_plan
from tests.cluster.machines import DASHBOARD, SERVE, Machines, wait_until, why_not
from tests.cluster.two_nodes import Node
from tests.manifests.overlays import of_kind, rendered
from tests.serving.tiny_selector import NAME, make_base_model, make_selector

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(why_not() is not None, reason=f"no machines of one's own: {why_not()}"),
]

RUNS = 12
ASK = """
import json, sys, urllib.error, urllib.request
url, token = sys.argv[1:]
rows = [{"question": f"Which river is number {n}?", "answer": f"The one called {n * 7919 % 1000}."} for n in range(30)]
body = json.dumps({"dataset": {"records": rows}, "top_k": 1}).encode()
request = urllib.request.Request(url, body, {"Content-Type": "application/json", "Authorization": f"Bearer {token}"})
try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        print(answer.status, json.load(answer)["selector"]["name"])
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def selector(tmp_path_factory: pytest.TempPathFactory, hub: Path) -> Path:
    base_model = make_base_model(hub / f"models--{NAME.replace('/', '--')}" / "snapshots" / "0")
    return make_selector(tmp_path_factory.mktemp("selectors") / "tiny", base_model)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all machines share."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, hub: Path, state: Path) -> Iterator[Machines]:
    cache = tmp_path_factory.mktemp("cache")
    environment = {"HF_HUB_CACHE": str(hub), "FTMETA_CACHE": str(cache), "FTMETA_STATE": str(state)}
    with Machines(tmp_path_factory.mktemp("machines"), environment=environment) as machines:
        yield machines


def said_by(process: subprocess.Popen[str], timeout_s: float = 400) -> str:
    said, _ = process.communicate(timeout=timeout_s)
    return said


def submit(machines: Machines, *command: str, token: str | None = None) -> subprocess.Popen[str]:
    """`ray job submit` as the documentation gives it, on the computer outside."""
    job = ["ray", "job", "submit", "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml", "--", *command]
    return machines.client(*job, token=token)


def write_sweep(path: Path, cpus_per_slot: int) -> Path:
    path.write_text(
        f"name: {path.stem}\ntasks: [elements]\npipelines: {{sample: {RUNS}}}\nslots: 2\n"
        f"cpus_per_slot: {cpus_per_slot}\nbudget: {{epochs: 0.05, max_fidelity: 2, eval_examples: 16}}\n"
    )
    return path


def collect(machines: Machines, sweep: Path, out: Path) -> subprocess.Popen[str]:
    job = ("python", "-m", "jobs.collect", "--config", str(sweep), "--out", str(out), "--retry-failed")
    return submit(machines, *job)


def at_work(machines: Machines, node: Node) -> bool:
    """Whether a slot of a sweep is on the machine; Ray names it otherwise while it works and while it waits."""
    return any("ResourceTrainable" in title or "SweepSlot" in title for title in machines.titles(node))


def assert_each_run_exactly_once(sweep: Path, out: Path) -> None:
    planned = {spec.run_id for spec in make_plan(load_sweep(sweep)).runs}
    whole, problems = Ledger(out / "ledger").scan()
    assert problems == []
    assert sorted(result.run.run_id for result in whole) == sorted(planned)
    assert {result.run.status for result in whole} <= {"ok", "diverged"}  # a run that diverges is done
    assert all(len(result.curve) == 3 for result in whole if result.run.status == "ok")
    assert sorted(metadataset.read(out).runs["run_id"]) == sorted(planned)


def test_without_the_token_or_with_another_no_job_is_taken(machines: Machines, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    nobody = machines.client("ray", "job", "submit", "--no-wait", "--", "touch", str(mark), token="")
    stranger = machines.client("ray", "job", "submit", "--no-wait", "--", "touch", str(mark), token="0" * 64)
    assert "Missing authentication token" in said_by(nobody)
    assert "Invalid authentication token" in said_by(stranger)
    assert 0 not in (nobody.returncode, stranger.returncode)
    owner = machines.client("ray", "job", "submit", "--", "touch", str(mark))
    assert "succeeded" in said_by(owner)
    assert mark.exists()


@pytest.mark.long
def test_workers_die_and_a_new_machine_takes_their_place(machines: Machines, tmp_path: Path) -> None:
    sweep, out = write_sweep(tmp_path / "lost-workers.yaml", cpus_per_slot=2), tmp_path / "out"
    ledger = Ledger(out / "ledger")
    first, second = machines.nodes[1:]
    with collect(machines, sweep, out) as job:
        wait_until(lambda: len(ledger) > 0 and at_work(machines, first) and at_work(machines, second))
        machines.kill(second)
        rows = len(ledger)
        wait_until(lambda: len(ledger) > rows + 1)  # it goes on with what is left
        fresh = machines.add_worker(wait=False)
        machines.kill(first)
        assert len(ledger) < RUNS
        assert job.poll() is None
        wait_until(lambda: at_work(machines, fresh))
        said = said_by(job)
    assert job.returncode == 0, said
    with collect(machines, sweep, out) as again:
        said = said_by(again)
    assert again.returncode == 0, said
    assert_each_run_exactly_once(sweep, out)


def answer(machines: Machines, node: Node, token: str | None = None) -> str:
    """What the service says to the computer outside, through a machine's proxy."""
    url = f"http://{node.address}:{SERVE}/v1/recommendations"
    return said_by(machines.client(sys.executable, "-c", ASK, url, token or machines.service_token), 60).strip()


def service_file(path: Path, selector: Path) -> Path:
    """What the operator sends to Serve for the RayService of k8s/, with another selector."""
    (service,) = of_kind(rendered("gpu"), "RayService")
    config: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"])
    config["applications"][0]["args"]["selector"] = str(selector)
    path.write_text(yaml.safe_dump(config))
    return path


def test_the_head_dies_and_comes_back_with_the_service_and_the_sweep(
    machines: Machines, selector: Path, tmp_path: Path
) -> None:
    while len(alive := [node for node in machines.nodes[1:] if node.main is not None]) < 2:
        machines.add_worker()  # in the place of those that a test before this one has killed
    first, second = alive
    said = said_by(machines.client("serve", "deploy", str(service_file(tmp_path / "service.yaml", selector))))
    wait_until(lambda: serving(machines))
    assert {answer(machines, node) for node in (first, second)} == {"200 tiny-0"}, said
    assert answer(machines, first, "another-token") == "401"

    sweep, out = write_sweep(tmp_path / "lost-head.yaml", cpus_per_slot=1), tmp_path / "out"
    ledger = Ledger(out / "ledger")
    job = collect(machines, sweep, out)
    wait_until(lambda: len(ledger) > 1)
    raylets = {node.index: raylet_of(node) for node in (first, second)}
    machines.kill(machines.head)
    said = said_by(job)
    assert job.returncode != 0, said
    assert answer(machines, first) == "200 tiny-0"  # workers answer while there is no head

    machines.start_head()
    machines.await_started([machines.head])
    rows = len(ledger)
    assert 1 < rows < RUNS
    assert {node.index: raylet_of(node) for node in (first, second)} == raylets  # the same nodes, not new ones
    wait_until(lambda: serving(machines))
    assert {answer(machines, node) for node in (first, second)} == {"200 tiny-0"}
    with collect(machines, sweep, out) as again:
        said = said_by(again)
    assert again.returncode == 0, said
    assert_each_run_exactly_once(sweep, out)


def raylet_of(node: Node) -> psutil.Process:
    (raylet,) = [process for process in node.processes() if process.name() == "raylet"]
    return raylet


def serving(machines: Machines) -> bool:
    """Whether Serve's controller, on the head, has the application and a healthy proxy on each node. Raises where it
    says that there is no hope."""
    address = f"http://{machines.head.address}:{DASHBOARD}"
    said = said_by(machines.client("serve", "status", "--address", address))
    start = said.find("proxies:")
    if start < 0:
        return False
    found = yaml.safe_load(said[start:])
    application = found["applications"]["ftmeta"]
    assert application["status"] != "DEPLOY_FAILED", application["message"]
    return application["status"] == "RUNNING" and set(found["proxies"].values()) == {"HEALTHY"}


def doctor(machines: Machines) -> tuple[int, dict[str, Any]]:
    """`ftmeta doctor --cluster` as a job from outside: its exit code, and the checks by name."""
    with machines.client("ray", "job", "submit", "--", "ftmeta", "doctor", "--cluster", "--json") as job:
        said = said_by(job)
    document = json.loads(said[said.index("\n{\n") : said.index("\n}\n") + 2])
    return job.returncode, {check["name"]: check for check in document["checks"]}


def test_the_doctor_finds_nothing_wrong_with_what_came_back(machines: Machines, state: Path) -> None:
    code, checks = doctor(machines)
    assert {name: check["found"] for name, check in checks.items() if not check["ok"]} == {}
    assert code == 0
    assert checks["nodes"]["found"].startswith("3 at ")
    assert checks["token"]["found"] == "on every node; without it the job server answers 401"
    assert checks["storage"]["found"] == f"{state} is shared"
    assert checks["Serve"]["found"] == "ftmeta on 3 nodes"  # the head has a proxy too
    assert checks["MLflow"]["found"].startswith("not in use")
    assert list(state.iterdir()) == []


@pytest.mark.long  # a minute of waiting for files that never come
def test_the_doctor_names_a_machine_that_has_not_mounted_the_shared_folder(machines: Machines, state: Path) -> None:
    stranger = machines.add_worker(without=state)
    code, checks = doctor(machines)
    assert code != 0
    assert [name for name, check in checks.items() if not check["ok"]] == ["storage"]
    assert f"({stranger.address}) does not see what" in checks["storage"]["found"]
    assert checks["storage"]["found"].count("does not see what") == 4  # nor do the others see what it wrote
