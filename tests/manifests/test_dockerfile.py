"""The images without a Docker daemon: the file is read and held to its rules, and its pip commands are run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.manifests.dockerfile import chain, complaints, copied, pip_commands, stages
from tests.manifests.overlays import ROOT

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


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(
    ("target", "check"),
    [
        ("mlflow-packages", "import flask_wtf, mlflow, psycopg2, mlflow.server.auth"),
        ("launcher-packages", "import boto3, googleapiclient, ftmeta.cli, jobs.collect, jobs.finetune, ray, torch"),
    ],
)
def test_the_packages_install_into_a_fresh_environment(target: str, check: str, tmp_path: Path) -> None:
    """The very commands of the file, in its order; what is not run is the base image and apt."""
    environment = {**os.environ, "PATH": f"{tmp_path}/venv/bin:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=300)
    source = tmp_path / "src"
    source.mkdir()
    for stage in chain(stages(TEXT), target):
        for names, folder in copied(stage):
            for name in names:
                place = source / folder / ("" if folder != "./" else Path(name).name)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, place)
    for command in pip_commands(stages(TEXT), target):
        subprocess.run(["bash", "-ec", command], cwd=source, env=environment, check=True, timeout=2400)
    elsewhere = {**environment, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        ["python", "-c", check], cwd=tmp_path, env=elsewhere, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
