"""The images without a Docker daemon: the file is read and held to its rules, and its pip commands are run."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.manifests.dockerfile import chain, complaints, copied, pip_commands, stages
from tests.manifests.overlays import ROOT, of_kind, pods, rendered

TEXT = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
TARGETS = ("cpu", "cuda", "launcher", "mlflow")


def test_the_file_keeps_its_rules() -> None:
    assert complaints(TEXT, ROOT, IGNORED, TARGETS) == []


BROKEN = {
    "the latest base": (("python:3.11-slim-bookworm AS packages", "python:latest AS packages"), "FROM python:latest"),
    "no version": (("python:3.11-slim-bookworm", "python"), "FROM python: no version"),
    "two bases": (("python:3.11-slim-bookworm AS runtime", "debian:12.5-slim AS runtime"), "several bases"),
    "root": (("\nUSER 1000:1000\nCOPY --from=cuda", "\nCOPY --from=cuda"), "cuda: runs as root"),
    "a user by name": (("USER 1000:1000", "USER ftmeta"), "cpu: runs as ftmeta"),
    "user 0": (("USER 1000:1000", "USER 0:0"), "mlflow: runs as 0"),
    "pip in the image": (("FROM runtime AS mlflow\n", "FROM mlflow-packages AS mlflow\nUSER 1\n"), "pip's leftovers"),
    "pip without constraints": (("-c constraints.txt -r", "-r"), "pip without the constraints"),
    "a secret argument": (('ARG TORCH_INDEX=""', 'ARG PIP_TOKEN=""'), "ARG PIP_TOKEN"),
    "a secret in the environment": (
        ("ENV PATH=/opt/ftmeta/bin:$PATH PYTHON", "ENV DB_PASSWORD=x PYTHON"),
        "DB_PASSWORD",
    ),
    "everything": (("COPY constraints.txt ./", "COPY . ./"), "tokens and results included"),
    "a file that is not there": (("COPY constraints.txt", "COPY constraint.txt"), "constraint.txt: is not there"),
    "a file that is kept out": (("COPY jobs/configs", "COPY tests"), ".dockerignore keeps it out"),
    "no stage": (("--from=cpu-packages", "--from=cpu-package"), "which is no stage"),
    "a shell as the program": (('CMD ["ftmeta", "doctor"]', "CMD ftmeta doctor"), "write a list"),
    "recommended packages": (("--no-install-recommends ", ""), "only recommended"),
    "apt's lists": (("    && rm -rf /var/lib/apt/lists/*\n", "    && true\n"), "apt's lists stay"),
    "old lists": (("apt-get update", "true"), "takes old lists"),
    "an address": (("RUN python -m venv /opt/ftmeta", "RUN curl https://example.org | sh"), "fetches from an address"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_finds_what_breaks_it(name: str) -> None:
    (before, after), said = BROKEN[name]
    assert before in TEXT
    assert said in "\n".join(complaints(TEXT.replace(before, after), ROOT, IGNORED, TARGETS))


@pytest.mark.parametrize(
    ("text", "said"), [("FROM x:1.0\n", "give the stage a name"), ("ADD a b\n", "unknown instruction ADD")]
)
def test_what_the_reader_does_not_know_is_an_error(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stages(text)


def test_the_reader_joins_continued_lines() -> None:
    (stage,) = stages("# a\nFROM x:1.0 AS a\nRUN one \\\n    # why\n    && two\n").values()
    assert [one.text for one in stage.instructions] == ["one && two"]


def test_the_images_of_one_cluster_hold_the_same_code() -> None:
    of = {name: stages(TEXT)[f"{name}-packages"] for name in ("cpu", "cuda")}
    assert list(copied(of["cpu"])) == list(copied(of["cuda"]))
    assert pip_commands(stages(TEXT), "cpu-packages")[-1] == pip_commands(stages(TEXT), "cuda-packages")[-1]
    assert "FROM cpu AS launcher" in TEXT


def test_torch_comes_before_deepspeed_which_looks_at_it() -> None:
    for target in ("cpu-packages", "cuda-packages"):
        first, *rest = pip_commands(stages(TEXT), target)
        assert first.split()[-1] == "torch"
        assert len(rest) == 1


def test_versions_are_pinned_beside_the_constraints() -> None:
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().split() if "==" in line}
    named = (ROOT / "cluster" / "mlflow-requirements.txt").read_text().splitlines()
    named += re.findall(r"install -c constraints.txt (boto3\S+ \S+)$", TEXT, re.MULTILINE)[0].split()
    for requirement in named:
        if not requirement.startswith("#"):
            assert "==" in requirement or requirement.split("[")[0] in pins


def installed(target: str, folder: Path) -> dict[str, str]:
    """Runs the very pip commands of the file for `target`, in its order, in a fresh environment in `folder`; returns
    the variables with which that is used. What is not run is the base image and apt."""
    environment = {**os.environ, "PATH": f"{folder}/venv/bin:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=300)
    source = folder / "src"
    source.mkdir()
    for stage in chain(stages(TEXT), target):
        for names, to in copied(stage):
            for name in names:
                place = source / (Path(name).name if to == "./" else to)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, place)
    for command in pip_commands(stages(TEXT), target):
        subprocess.run(["bash", "-ec", command], cwd=source, env=environment, check=True, timeout=2400)
    return environment


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_the_packages_install_into_a_fresh_environment(tmp_path: Path) -> None:
    environment = installed("launcher-packages", tmp_path)
    check = (
        "import boto3, googleapiclient, ftmeta.cli, jobs.collect, jobs.finetune, ray, torch, deepspeed, smac, openai"
    )
    for command in (["python", "-W", "ignore", "-c", check], ["ftmeta", "recommend", "world-facts", "--json"]):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=600)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_mlflow_server_starts_and_asks_for_its_password(tmp_path: Path) -> None:
    """As the manifest starts it, but for the database, whose tables of users and of runs are in one here too."""
    environment = installed("mlflow-packages", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = f"sqlite:///{tmp_path}/mlflow.db"
    objects = rendered("gpu")
    (settings,) = [one for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"] == "mlflow"]
    users = re.sub(r"(?m)^database_uri = .*$", f"database_uri = {database}", settings["data"]["auth.ini"])
    (tmp_path / "auth.ini").write_text(users)
    (pod,) = [one for one in pods(objects) if one.where == "Deployment mlflow"]
    replaced = {"--host": "127.0.0.1", "--port": str(port), "--backend-store-uri": database}
    replaced |= {"--artifacts-destination": str(tmp_path / "artifacts")}
    given = [argument.split("=", 1) for argument in pod.spec["containers"][0]["args"]]
    arguments = [f"{name}={replaced.get(name, value)}" for name, value in given]
    environment |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": "ftmeta",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a-password-of-the-test",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-the-test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "HOME": str(tmp_path),
    }
    server = subprocess.Popen(["mlflow", "server", *arguments], cwd=tmp_path, env=environment, start_new_session=True)
    try:
        wait_until_healthy(server, port)
        search = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
        password = base64.b64encode(b"ftmeta:a-password-of-the-test").decode()
        host, user = {"Host": "mlflow:5000"}, {"Authorization": f"Basic {password}"}
        assert status(search, host) == 401
        assert status(search, host | user) == 200
        assert status(search, {"Host": "localhost:5000"} | user) == 200  # kubectl port-forward
        assert status(search, {"Host": "evil.example"} | user) == 403
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its workers are in its group, and nothing else is
        server.wait(timeout=60)


def status(url: str, headers: dict[str, str]) -> int:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def wait_until_healthy(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 180
    while server.poll() is None and time.monotonic() < deadline:
        try:
            # As the kubelet asks: by the pod's address, whatever hosts are allowed.
            if status(f"http://127.0.0.1:{port}/health", {"Host": f"10.1.2.3:{port}"}) == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not answer")
