from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftmeta.errors import ConfigError, MetaDatasetError
from ftmeta.orchestrate.config import load_config
from ftmeta.surrogates import Surrogates
from jobs.metatrain import MetatrainConfig, main
from tests.surrogates.synthetic import write_sweep

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def test_the_job_meta_trains_what_its_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FTMETA_STATE", str(tmp_path))
    write_sweep(tmp_path / "metadata" / "x", 3, 8)
    config = tmp_path / "metatrain.yaml"
    config.write_text("metadata: metadata/x\nout: selectors/x\nexclude_tasks: [task2]\n")
    main(["--config", str(config)])
    document = json.loads(capsys.readouterr().out)
    assert document["tasks"] == 2
    assert Surrogates.load(tmp_path / "selectors" / "x").version == document["version"]


def test_a_missing_meta_dataset_is_a_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTMETA_STATE", str(tmp_path))
    with pytest.raises(MetaDatasetError, match=r"no meta-dataset .*; give "):
        main(["--config", str(CONFIGS / "metatrain-smoke.yaml")])
    assert not (tmp_path / "selectors").exists()


def test_configs(tmp_path: Path) -> None:
    assert load_config(CONFIGS / "metatrain.yaml", MetatrainConfig).seed == 0
    (tmp_path / "bad.yaml").write_text("metadata: x\nout: y\nsede: 1\n")
    with pytest.raises(ConfigError, match="sede"):
        load_config(tmp_path / "bad.yaml", MetatrainConfig)
