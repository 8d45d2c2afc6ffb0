from __future__ import annotations

from pathlib import Path

import pytest

from ftmeta.errors import ConfigError, FtmetaError
from ftmeta.orchestrate.shell import exit_codes, results_folder, state_dir


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for error, code in ((ConfigError("give a name"), 2), (FtmetaError("no answer"), 1)):
        with pytest.raises(SystemExit) as ended, exit_codes():
            raise error
        assert ended.value.code == code
        assert capsys.readouterr().err == f"error: {error}\n"


def test_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FTMETA_STATE", raising=False)
    assert state_dir() == tmp_path / ".ftmeta"
    monkeypatch.setenv("FTMETA_STATE", "elsewhere")
    assert state_dir() == tmp_path / "elsewhere"


def test_results_outside_a_job_may_be_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FTMETA_STATE", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert results_folder(Path("out"), "metadata/smoke") == tmp_path / "out"
    assert results_folder(None, "metadata/smoke") == tmp_path / ".ftmeta" / "metadata" / "smoke"


def test_results_of_a_job_never_go_into_its_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv("FTMETA_STATE", raising=False)
    with pytest.raises(ConfigError, match="relative"):
        results_folder(Path("out"), "metadata/smoke")
    with pytest.raises(ConfigError, match="FTMETA_STATE"):
        results_folder(None, "metadata/smoke")
    assert results_folder(tmp_path, "metadata/smoke") == tmp_path
    monkeypatch.setenv("FTMETA_STATE", str(tmp_path))
    assert results_folder(None, "metadata/smoke") == tmp_path / "metadata" / "smoke"
