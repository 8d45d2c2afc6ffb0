"""What the manifests start exists: jobs with options that parse, configurations that load, the Serve application, the
MLflow server's options."""

from __future__ import annotations

import argparse
import configparser
import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from typer.main import get_command

from ftmeta.cli import app as ftmeta_app
from ftmeta.errors import ConfigError
from ftmeta.orchestrate.config import load_config
from ftmeta.orchestrate.sweep import Sweep, load_sweep
from tests.manifests.overlays import OVERLAYS, ROOT, of_kind, pods, rendered, with_platform

JOB = re.compile(r"python -m (jobs\.\w+) ([^\n`&|;]*)")
DRAIN = "ftmeta-drain"


class Parsed(Exception):  # noqa: N818  # no error: the options are good
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options


def parsed(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The options as the job's own parser reads them; nothing of the job is run. Raises SystemExit for bad ones."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
        raise Parsed(real(self, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Parsed) as found:
        importlib.import_module(module).main(words)
    return found.value.options


def load(module: str, path: Path) -> Any:
    """The configuration as the job's own model reads it. Raises ConfigError."""
    if module == "jobs.collect":
        return load_sweep(path)
    models = {"jobs.finetune": "Finetune", "jobs.serve": "Serve", "jobs.metatrain": "MetatrainConfig"}
    return load_config(path, getattr(importlib.import_module(module), models[module]))


def in_repository(path: Path) -> Path:
    """The file that the Dockerfile copies to `path`."""
    return ROOT / path.relative_to("/app")


def entry_points() -> list[tuple[str, str]]:
    return [
        (overlay, one["spec"]["entrypoint"])
        for overlay in OVERLAYS
        for one in of_kind(rendered(overlay), "RayJob")
    ]  # fmt: skip


def test_each_overlay_has_its_jobs() -> None:
    assert len(entry_points()) == 6


@pytest.mark.parametrize(("overlay", "entry_point"), entry_points())
def test_entry_points_of_jobs(overlay: str, entry_point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    python, dash_m, module, *words = shlex.split(entry_point)
    assert (python, dash_m) == ("python", "-m")
    options = parsed(module, words, monkeypatch)
    assert load(module, in_repository(options.config)) is not None
    (settings,) = [one for one in of_kind(with_platform(overlay), "ConfigMap") if one["metadata"]["name"] == "ray-env"]
    state = Path(settings["data"]["FTMETA_STATE"])  # where a job writes that is not told otherwise
    for folder in filter(None, (state, options.out)):
        assert folder.is_relative_to("/shared")  # what all nodes see, and outlives the cluster


def test_a_wrong_option_or_file_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("jobs.collect", ["--config", "x", "--resume"], monkeypatch)
    assert "unrecognized arguments: --resume" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="cannot be read"):
        load("jobs.finetune", ROOT / "jobs" / "configs" / "finetune-phi4.yaml")
    with pytest.raises(ConfigError, match="known keys"):
        load("jobs.collect", ROOT / "jobs" / "configs" / "finetune-smoke.yaml")


def commands_in(*folders: str) -> list[tuple[str, str, str]]:
    files = [
        file for folder in folders for file in (ROOT / folder).rglob("*") if file.suffix in (".md", ".sh", ".yaml")
    ]
    return [
        (str(file.relative_to(ROOT)), module, words)
        for file in files
        for module, words in JOB.findall(re.sub(r"\\\n(# )?\s*", " ", file.read_text(encoding="utf-8")))
    ]


@pytest.mark.parametrize(("file", "module", "words"), commands_in("cluster", "k8s"))
def test_jobs_that_pages_and_scripts_name(file: str, module: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Path(
        parsed(module, shlex.split(words, comments=True), monkeypatch).config or ROOT / "jobs/configs/serve.yaml"
    )
    if not config.is_absolute():
        assert (ROOT / config).is_file(), file


def test_sizes_of_pods_fit_what_the_jobs_ask_for() -> None:
    """Two workers with four GPUs each, and room for a sweep's slots."""
    for overlay in ("gpu/finetune", "gpu-kueue/finetune"):
        (job,) = rendered(overlay)
        config = load("jobs.finetune", in_repository(Path(shlex.split(job["spec"]["entrypoint"])[4])))
        group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][-1]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        places = min(int(limits["nvidia.com/gpu"]), int(limits["cpu"]) // int(config.cpus_per_worker))
        assert group["replicas"] * places >= config.workers
    (job,) = rendered("gpu/collect")
    sweep = load("jobs.collect", in_repository(Path(shlex.split(job["spec"]["entrypoint"])[4])))
    assert isinstance(sweep, Sweep)
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][-1]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["maxReplicas"] * int(limits["nvidia.com/gpu"]) == sweep.slots


@pytest.mark.parametrize(("overlay", "entry_point"), entry_points())
def test_jobs_find_room_when_they_begin(overlay: str, entry_point: str) -> None:
    """On the workers that are there from the start: a sweep without `slots` counts them, a run on several workers waits
    for room, and neither asks the autoscaler for more. A sweep with `slots` does."""
    (job,) = rendered(overlay)
    module, config = (
        shlex.split(entry_point)[2],
        load(entry_point.split()[2], in_repository(Path(entry_point.split()[4]))),
    )
    wanted = config.workers if module == "jobs.finetune" else 0 if config.slots else 1
    each = (
        (config.cpus_per_worker, config.gpus_per_worker)
        if module == "jobs.finetune"
        else (config.cpus_per_slot, config.gpus_per_slot)
    )
    places = 0
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        there = (int(limits["cpu"]), int(limits.get("nvidia.com/gpu", 0)))
        places += group["minReplicas"] * min(int(has / needs) for has, needs in zip(there, each, strict=True) if needs)
    assert places >= wanted


@pytest.mark.filterwarnings("ignore")  # of packages that are imported here
def test_the_serve_configuration_is_one_and_its_application_exists() -> None:
    from ray.serve.schema import ServeDeploySchema

    from ftmeta.serving.app import BuildArguments, SelectorDeployment, UserConfig

    for overlay in ("cpu-dev", "gpu", "gpu-kueue"):
        (service,) = of_kind(rendered(overlay), "RayService")
        config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
        (application,) = config.applications
        module, name = application.import_path.split(":")
        assert callable(getattr(importlib.import_module(module), name))
        arguments = BuildArguments.model_validate(application.args)
        assert arguments.host == config.http_options.host  # the door that tokens are wanted for
        (deployment,) = application.deployments
        assert deployment.name == SelectorDeployment.name  # type: ignore[attr-defined]
        assert UserConfig.model_validate(deployment.user_config) is not None
        port = config.http_options.port
        for pod in pods(rendered(overlay)):
            if pod.where.startswith("RayService"):
                named = {one["name"]: one["containerPort"] for one in pod.spec["containers"][0]["ports"]}
                assert named["serve"] == port
                names = {entry["name"] for entry in pod.spec["containers"][0]["env"]}
                assert "FTMETA_API_TOKENS_SHA256" in names
        replicas = deployment.autoscaling_config
        group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
        assert isinstance(replicas, dict)
        assert replicas["min_replicas"] <= group["minReplicas"] * deployment.max_replicas_per_node


@pytest.mark.filterwarnings("ignore")  # of packages that are imported here
def test_mlflow_knows_the_options_of_its_server() -> None:
    from mlflow.cli import server

    (pod,) = [one for one in pods(rendered("gpu")) if one.where == "Deployment mlflow"]
    container = pod.spec["containers"][0]
    assert container["command"] == ["mlflow", "server"]
    values = server.make_context("server", list(container["args"])).params
    assert (values["port"], values["app_name"]) == (5000, "basic-auth")
    with pytest.raises(click.NoSuchOption, match="--allowed-host"):
        server.make_context("server", ["--allowed-hostnames=x"])


def test_mlflow_knows_the_words_of_its_file_of_users() -> None:
    """Whether the server takes it, test_dockerfile.py sees with the packages of the image."""
    (settings,) = [one for one in of_kind(rendered("gpu"), "ConfigMap") if one["metadata"]["name"] == "mlflow"]
    mine, theirs = configparser.ConfigParser(), configparser.ConfigParser()
    mine.read_string(settings["data"]["auth.ini"])
    package = importlib.util.find_spec("mlflow")
    assert package is not None
    assert theirs.read(Path(str(package.origin)).parent / "server" / "auth" / "basic_auth.ini")
    assert set(mine["mlflow"]) <= set(theirs["mlflow"])
    assert mine["mlflow"]["default_permission"] == "NO_PERMISSIONS"


def test_fetching_a_model_is_a_command() -> None:
    (pod,) = [one for one in pods(rendered("tasks/fetch-model")) if one.where == "Job fetch-model"]
    program, *words = pod.spec["containers"][0]["command"]
    assert program == "ftmeta"
    command: Any = get_command(ftmeta_app)
    while words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert command.make_context("fetch", list(words)).params["name"] == "microsoft/Phi-3-mini-4k-instruct"


def test_each_ray_pod_leaves_by_the_script_of_the_image() -> None:
    copied = re.findall(r"^COPY --chmod=0755 (\S+) /usr/local/bin/(\S+)$", dockerfile(), re.MULTILINE)
    assert set(copied) == {("cluster/drain.sh", DRAIN)}
    for overlay in OVERLAYS:
        for pod in pods(rendered(overlay)):
            if pod.ray:
                hook: list[str] = pod.spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
                assert hook == [DRAIN]


def dockerfile() -> str:
    return (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
