"""mlflow/compose.yaml against the compose specification and the rules of the house; MLflow knows what it is told."""

from __future__ import annotations

import configparser
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from tests.tracking.compose import GIVEN, MLFLOW, interpolated, server_arguments, services

pytestmark = [  # MLflow's own use of its dependencies' older names, not ours
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*type hint:UserWarning"),
]

TEXT = (MLFLOW / "compose.yaml").read_text(encoding="utf-8")
SECRETS = ("POSTGRES_PASSWORD", "STORE_SECRET_KEY", "MLFLOW_SECRET_KEY", "MLFLOW_ADMIN_PASSWORD")
ONCE = {"bucket", "backup"}  # services that end


def test_the_file_is_as_the_compose_specification_says() -> None:
    spec = pytest.importorskip("compose_spec", reason="compose-spec is missing: pip install compose-spec")
    merged = yaml.safe_load(interpolated(TEXT, GIVEN))  # the reader knows no `<<`
    whole = yaml.safe_dump(merged)
    assert set(spec.PyCompose.from_yaml(whole).service_names()) == set(services())
    for wrong in (
        whole.replace("healthcheck:", "healthchek:", 1),
        whole.replace("interval: 15s", "interval: soon", 1),
        whole.replace("condition: service_healthy", "condition: service_fine", 1),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            spec.PyCompose.from_yaml(wrong)


def test_no_secret_has_a_default_and_the_example_names_all() -> None:
    for name in SECRETS:
        left_out = {key: value for key, value in GIVEN.items() if key != name}
        with pytest.raises(KeyError, match=name):
            services(left_out)
    example = (MLFLOW / "env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^(\w+)=", example, re.MULTILINE)) == set(GIVEN)
    assert all(re.search(rf"^{name}=$", example, re.MULTILINE) for name in SECRETS), "an example password is used"
    assert (MLFLOW / ".gitignore").read_text(encoding="utf-8").split() == [".env"]


@pytest.mark.parametrize("name", sorted(services()))
def test_every_service_is_careful(name: str) -> None:
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", service["image"]), "a tag that stays what it is"
    assert "max-size" in service["logging"]["options"]
    if name in ONCE:
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), f"{port} is open to the network"
    for other in service.get("depends_on", {}):
        assert other in services()


def test_only_mlflow_has_a_port_and_it_waits_for_what_it_needs() -> None:
    assert [name for name, service in services().items() if "ports" in service] == ["mlflow"]
    waits = {name: one["condition"] for name, one in services()["mlflow"]["depends_on"].items()}
    assert waits == {
        "postgres": "service_healthy",
        "store": "service_healthy",
        "bucket": "service_completed_successfully",
    }


def test_mlflow_knows_the_options_of_its_server_and_the_words_of_its_file_of_users() -> None:
    from mlflow.cli import server

    known = {option for parameter in server.params for option in parameter.opts}
    assert {argument.split("=")[0] for argument in server_arguments()} <= known
    mine, theirs = configparser.ConfigParser(), configparser.ConfigParser()
    mine.read(MLFLOW / "auth.ini")
    package = importlib.util.find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    original = (Path(package.origin).parent / "server" / "auth" / "basic_auth.ini").read_text(encoding="utf-8")
    theirs.read_string(re.sub(r"^# (\w+ = )", r"\1", original, flags=re.MULTILINE))  # defaults are comments there
    assert set(mine["mlflow"]) <= set(theirs["mlflow"])
    assert mine["mlflow"]["default_permission"] == "NO_PERMISSIONS"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mlflow.example.com", True),
        ("mlflow.example.com:8443", True),
        ("127.0.0.1:5000", True),
        ("evil.example", False),
    ],
)
def test_the_allowed_hosts_are_the_proxys_name_and_this_machine(host: str, allowed: bool) -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    (given,) = [one.split("=", 1)[1] for one in server_arguments() if one.startswith("--allowed-hosts=")]
    assert is_allowed_host_header(given.split(","), host) == allowed


def test_the_image_is_built_from_what_is_pinned() -> None:
    root = MLFLOW.parent
    text = (MLFLOW / "Dockerfile").read_text(encoding="utf-8")
    (copied,) = re.findall(r"^COPY (.+) \./$", text, re.MULTILINE)
    assert all((root / name).is_file() for name in copied.split())
    ignored = (MLFLOW / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1:] == ["*", *(f"!{name}" for name in copied.split())], "what is copied is sent, and nothing else"
    (boto3,) = re.findall(r"boto3==[\d.]+", text)
    assert boto3 in (root / "cluster" / "Dockerfile").read_text(encoding="utf-8"), "the same as the launcher's"
    assert "USER 1000:1000" in text


def test_what_the_readme_says_is_there() -> None:
    text = (MLFLOW / "README.md").read_text(encoding="utf-8")
    for service in re.findall(r"--profile backup run --rm (\w+)", text):
        assert service in services()
    for volume in re.findall(r"ftmeta-mlflow_(\w+)", text):
        assert f"\n  {volume}:\n" in TEXT
    for path in re.findall(r"`(tests/tracking/\w+\.py|k8s/[\w./]+)`", text):
        assert (MLFLOW.parent / path).is_file(), path
