"""k8s/secrets.sh against a kubectl that keeps secrets in a folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ftmeta.serving.tokens import load_token_hashes
from tests.manifests.overlays import K8S

# Takes what the script calls: get secret NAME [--output=jsonpath={.data.KEY}], create and apply --filename=-.
KUBECTL = """#!{python}
import base64, json, os, pathlib, sys
import yaml
folder, arguments = pathlib.Path(os.environ["KEPT"]), sys.argv[1:]
with (folder / "calls").open("a") as log:
    log.write(json.dumps(arguments) + "\\n")
assert arguments[:2] == ["--namespace", "ftmeta"], arguments
verb, *rest = arguments[2:]
if verb == "get":
    file = folder / (rest[1] + ".json")
    if not file.exists():
        sys.exit("Error from server (NotFound): secrets " + rest[1])
    for option in rest[2:]:
        key = option.removeprefix("--output=jsonpath={{.data.").removesuffix("}}")
        print(base64.b64encode(json.loads(file.read_text())[key].encode()).decode(), end="")
else:
    assert rest == ["--filename=-"] and verb in ("create", "apply"), arguments
    one = yaml.safe_load(sys.stdin)
    assert one["kind"] == "Secret" and one["apiVersion"] == "v1"
    file = folder / (one["metadata"]["name"] + ".json")
    if verb == "create" and file.exists():
        sys.exit("Error from server (AlreadyExists)")
    file.write_text(json.dumps(one["stringData"]))
"""


def run(kept: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    binaries = kept / "bin"
    if not binaries.exists():
        binaries.mkdir(parents=True)
        (binaries / "kubectl").write_text(KUBECTL.format(python=sys.executable))
        (binaries / "kubectl").chmod(0o755)
    environment = {"PATH": f"{binaries}:{os.environ['PATH']}", "KEPT": str(kept)}
    command = ["bash", str(K8S / "secrets.sh"), *words]
    return subprocess.run(command, env=environment, input=given, capture_output=True, text=True, timeout=60)


def secrets(kept: Path) -> dict[str, dict[str, str]]:
    return {file.stem: json.loads(file.read_text()) for file in kept.glob("*.json")}


@functools.cache
def made_secrets() -> dict[str, frozenset[str]]:
    """The secrets that the script makes, with their keys."""
    kept = Path(tempfile.mkdtemp(prefix="ftmeta-secrets-"))
    try:
        done = run(kept)
        assert done.returncode == 0, done.stderr
        return {name: frozenset(data) for name, data in secrets(kept).items()}
    finally:
        shutil.rmtree(kept)


def test_made_once_and_kept_afterwards(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert first.returncode == 0, first.stderr
    made = secrets(tmp_path)
    assert first.stdout.count("made") == 6
    second = run(tmp_path)
    assert second.returncode == 0, second.stderr
    assert "made" not in second.stdout
    assert secrets(tmp_path) == made


def test_values_are_random_and_each_its_own(tmp_path: Path) -> None:
    run(tmp_path)
    values = [value for data in secrets(tmp_path).values() for value in data.values()]
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in values)
    assert len(set(values)) == len(values) == 8


def test_no_value_is_an_argument_or_a_word_of_the_script(tmp_path: Path) -> None:
    done = run(tmp_path)
    said = (tmp_path / "calls").read_text() + done.stdout + done.stderr
    assert [value for data in secrets(tmp_path).values() for value in data.values() if value in said] == []


def test_clients_tokens_are_known_by_their_hashes(tmp_path: Path) -> None:
    run(tmp_path)
    done = run(tmp_path, "api-token")
    assert done.returncode == 0, done.stderr
    kept = secrets(tmp_path)
    known = load_token_hashes(None, {"FTMETA_API_TOKENS_SHA256": kept["api-tokens"]["sha256"]})
    given = [kept["api-token-prometheus"]["token"], done.stdout.strip()]
    assert list(known) == [hashlib.sha256(token.encode()).hexdigest() for token in given]
    assert done.stdout.strip() not in json.dumps(kept)


def test_a_client_can_be_taken_away(tmp_path: Path) -> None:
    run(tmp_path)
    before = secrets(tmp_path)["api-tokens"]
    token = run(tmp_path, "api-token").stdout
    done = run(tmp_path, "revoke", given=token)
    assert done.returncode == 0, done.stderr
    assert secrets(tmp_path)["api-tokens"] == before
    again = run(tmp_path, "revoke", given=token)
    assert again.returncode == 2
    assert "no client has that token; nothing was changed" in again.stderr
    assert secrets(tmp_path)["api-tokens"] == before


def test_the_token_of_ray_is_printed_on_request_only(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, "ray-token").stdout == secrets(tmp_path)["ray-auth"]["auth_token"] + "\n"


@pytest.mark.parametrize("word", ["api-tokens", "--help"])
def test_an_unknown_word_changes_nothing(tmp_path: Path, word: str) -> None:
    done = run(tmp_path, word)
    assert done.returncode == 2
    assert f"unknown word '{word}'; give none, api-token, revoke or ray-token" in done.stderr
    assert secrets(tmp_path) == {}
