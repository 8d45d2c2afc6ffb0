"""Documents to a task as a real job, from the small configuration; with an endpoint instead of its local model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ftmeta.tasks import load_task
from tests.cluster.test_jobs import ROOT, submit, summary_in
from tests.synthesis.endpoint import endpoint

pytestmark = pytest.mark.cluster


def test_the_guides_of_this_repository_become_a_task(client: dict[str, str], tmp_path: Path) -> None:
    smoke = yaml.safe_load((ROOT / "jobs" / "configs" / "synthesize-smoke.yaml").read_text(encoding="utf-8"))
    with endpoint("first words") as server:
        config = tmp_path / "job.yaml"
        config.write_text(yaml.safe_dump({**smoke, "llm_url": server.url, "model": "m"}), encoding="utf-8")
        code, said = submit(
            client, "python", "-m", "jobs.synthesize", "--config", str(config), "--out", str(tmp_path / "guides")
        )
        assert code == 0, said
        summary = summary_in(said)
        assert summary["passages"]["asked"] == len(server.requests) == smoke["passages"]
    task = load_task(tmp_path / "guides")
    assert {split: len(examples) for split, examples in task.splits.items()} == summary["splits"]

    config.write_text(yaml.safe_dump({**smoke, "key": "secret"}), encoding="utf-8")
    code, said = submit(
        client, "python", "-m", "jobs.synthesize", "--config", str(config), "--out", str(tmp_path / "guides")
    )
    assert code != 0
    assert "job.yaml: key: Extra inputs are not permitted; known keys: " in said
    assert "secret" not in said
