from __future__ import annotations

from pathlib import Path

import pytest

from ftmeta.benchmark.units import ALL_METHODS, Settings, methods_of
from ftmeta.errors import ConfigError
from ftmeta.orchestrate.config import load_config
from jobs.benchmark import BenchmarkConfig

CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"


def test_configs_name_methods_that_exist(tmp_path: Path) -> None:
    whole = load_config(CONFIGS / "benchmark.yaml", BenchmarkConfig)
    assert (whole.metadata, whole.methods, whole.seeds) == (["phi3-micro"], ["all", "ablations"], 20)
    smoke = load_config(CONFIGS / "benchmark-smoke.yaml", BenchmarkConfig)
    assert set(Settings(methods_of(smoke.methods)).methods) < set(ALL_METHODS)
    assert set(ALL_METHODS) < set(Settings(methods_of(whole.methods)).methods)
    (tmp_path / "bad.yaml").write_text("metadata: [spine]\nout: y\nmetods: [all]\n")
    with pytest.raises(ConfigError, match="metods"):
        load_config(tmp_path / "bad.yaml", BenchmarkConfig)
