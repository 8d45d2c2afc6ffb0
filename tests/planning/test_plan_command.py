"""`ftmeta plan` as it is typed: its help, its JSON, its text, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftmeta.cli import main

MINI = ("--base-model", "microsoft/Phi-3-mini-4k-instruct")


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Runs the command as the console script would; the exit code."""
    monkeypatch.setattr(sys, "argv", ["ftmeta", "plan", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def test_help_has_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert "Example: ftmeta plan" in out
    assert "--json" in out


def test_the_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(monkeypatch, *MINI, "--gpus", 4, "--gpu-memory", 24, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["base_model"] == {"name": MINI[1], "parameters": 3_821_079_552}
    assert (found["gpus"], found["nodes"], found["gpu_memory_gb"], found["fits"]) == (4, 1, 24, True)
    assert {"micro_batch", "accumulation_steps", "zero_stage", "activation_checkpointing", "dtype"} < set(found["plan"])
    parts = dict(found["memory_gb"])
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.01)
    assert {"weights", "adapter", "gradients", "optimizer", "activations"} < set(parts)
    assert {"tokens_per_s", "step_s", "run_s"} < set(found["time"])
    assert found["time"]["run_s"] is None


def test_the_text_for_a_reader(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(monkeypatch, "world-facts", *MINI, "--hardware", "h100-80gb") == 0
    out = capsys.readouterr().out
    for words in ("fits: 16 rows of 66 tokens", "ZeRO 0", "activations", "tokens/s", "for 3 epochs", "tokenizer"):
        assert words in out
    assert typed(monkeypatch, *MINI, "--gpu-memory", 6) == 0  # not fitting is an answer
    out = capsys.readouterr().out
    assert "does not fit" in out
    assert "advice: 4 devices of 6 GB fit" in out
    assert "advice: 1 device of at least 10 GB fits" in out


def test_host_memory_is_told_where_it_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, *MINI, "--gpus", 4, "--gpu-memory", 24) == 0
    assert "host memory: up to 30.6 GB on each node while the model is loaded" in capsys.readouterr().out
    assert typed(monkeypatch, "--gpu-memory", 24) == 0  # phi3-micro: megabytes
    assert "host memory" not in capsys.readouterr().out


def test_on_a_machine_without_gpu_the_cores_are_called_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")  # no nvidia-smi, whatever this machine has
    assert typed(monkeypatch, "--gpus", 2) == 0
    out = capsys.readouterr().out
    assert "on 2 x 4 GB, a CPU core each" in out
    assert "note: no GPU was found here, so this is a plan for CPU cores" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("world-facts", "--sequence-length", 64), "leave one of the two out"),
        (("no-such-file.jsonl",), "no-such-file.jsonl"),
        (("--pipeline", "no-such-pipeline"), "strong-default"),
        (("--pipeline", "best"), "no pipeline 'best'; give default, strong-default, or the path of a YAML file"),
        (("--gpu-memory", "inf"), "--gpu-memory is inf; give the GB of one GPU, as 24"),
        (("--base-model", "."), "config.json"),
    ],
)
def test_mistakes_exit_with_2(
    arguments: tuple[object, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert typed(monkeypatch, *arguments, "--json") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


def test_a_plan_needs_neither_torch_nor_a_network() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('a plan asks nobody')\n"
        "socket.socket.connect = refuse\n"
        f"sys.argv = ['ftmeta', 'plan', *{MINI!r}, '--gpu-memory', '24', '--json']\n"
        "from ftmeta.cli import app\n"
        "app(standalone_mode=False)\n"
        "sys.exit(' '.join(sorted({'torch', 'ray', 'transformers', 'peft'} & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
