"""What a config.json has to state for a base model to be planned with, and what is said when it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ftmeta.errors import ModelError
from ftmeta.models import decoder, published_config
from ftmeta.models.architectures import from_config

MINI = published_config("microsoft/Phi-3-mini-4k-instruct")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", -128),
        ("hidden_size", True),
        ("num_hidden_layers", 2.0),
        ("num_attention_heads", 0),
        ("num_key_value_heads", 0),
        ("head_dim", -1),
        ("vocab_size", None),
        ("intermediate_size", "8192"),
        ("max_position_embeddings", False),
        ("sliding_window", 0),
    ],
)
def test_sizes_are_whole_numbers_above_0(key: str, value: Any) -> None:
    with pytest.raises(ModelError, match=f"'mine' has {key} {value!r}, wanted a whole number above 0"):
        from_config({**MINI, key: value}, "mine")


def test_what_may_be_left_out_is_left_out() -> None:
    bare = {
        key: value for key, value in MINI.items() if key not in ("num_key_value_heads", "head_dim", "sliding_window")
    }
    shape = from_config(bare, "mine")
    assert (shape.key_value_heads, shape.head_size, shape.sliding_window) == (32, 96, None)
    assert from_config({**bare, "sliding_window": 0, "use_sliding_window": False}, "mine").sliding_window is None


def test_more_heads_than_width() -> None:
    with pytest.raises(ModelError, match="64 attention heads for hidden_size 32"):
        from_config({**MINI, "hidden_size": 32, "num_attention_heads": 64}, "mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds no JSON object"),
        ("{", "is not JSON"),
        (json.dumps({**MINI, "model_type": ["phi3"]}), "are not supported"),
        (json.dumps({**MINI, "hidden_size": 0}), "has hidden_size 0"),
    ],
)
def test_a_config_json_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        decoder(str(tmp_path))


def asked(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A ModelError's text on standard output; the hub's client reads its environment when it is imported."""
    code = f"from ftmeta import models\ntry:\n    {code}\nexcept models.catalog.ModelError as error:\n    print(error)"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=True
    )


def test_a_hub_out_of_reach_is_told_once_and_at_once(tmp_path: Path) -> None:
    done = asked("models.decoder('nobody/no-such-model')", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert "'nobody/no-such-model' is not in the local hub cache and the hub is out of reach" in done.stdout
    assert done.stderr == ""


class EmptyHub(ThreadingHTTPServer):
    """A hub that has nothing, on this machine, and what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), NoSuchModel)
        self.paths: list[str] = []


class NoSuchModel(BaseHTTPRequestHandler):
    server: EmptyHub

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def empty_hub() -> Iterator[EmptyHub]:
    with EmptyHub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


def test_a_config_json_alone_in_the_hubs_cache_is_enough_to_plan_and_no_base_model(
    empty_hub: EmptyHub, tmp_path: Path
) -> None:
    """That is what `ftmeta plan` leaves there: `ftmeta finetune` has to ask the hub for the rest."""
    place = tmp_path / "models--some--model"
    snapshot = place / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(MINI))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{empty_hub.server_port}", "HF_HUB_CACHE": str(tmp_path)}
    assert asked("print(models.decoder('some/model').layers)", **hub).stdout == "32\n"
    assert empty_hub.paths == []
    assert "model.safetensors is missing" in asked("models.resolve('some/model')", **hub).stdout
    assert any("some/model" in path for path in empty_hub.paths)
