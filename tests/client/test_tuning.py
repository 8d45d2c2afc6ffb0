"""Tuning over the service: the count that the client keeps, and the example that tunes any script."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serving_client import records

from ftmeta.client import Client, Step, Tuning
from ftmeta.errors import UserError

ROOT = Path(__file__).parents[2]
BUDGET_S = 20.0

pytestmark = pytest.mark.usefixtures("token")


def score_of(step: Step) -> float:
    """Best at twice the reference rate (ours, standing for nothing measured)."""
    distance = math.log10(float(step.values["lr_multiplier"]) / 2)
    return 0.7 * math.exp(-(distance**2)) * step.fidelity / 10


def tune(client: Client, tuning: Tuning, steps: int) -> list[Step]:
    made = []
    while len(made) < steps and (step := tuning.ask(client)) is not None:
        tuning.tell(step, score_of(step), step.predicted_cost_s)
        made.append(step)
    return made


def test_a_tuning_keeps_to_its_budget_and_costs_add_up(url: str) -> None:
    with Client(url) as client:
        tuning = Tuning(budget_s=BUDGET_S, records=records(200))
        made = tune(client, tuning, 40)
        assert tuning.answer is not None
    assert len(made) >= 5
    of_one = [one for one in tuning.observations if one["pipeline"]["id"] == made[0].id]
    assert [one["cost_s"] for one in of_one] == sorted(one["cost_s"] for one in of_one)
    ends = {one["pipeline"]["id"]: one["cost_s"] for one in tuning.observations}
    assert sum(ends.values()) <= BUDGET_S
    assert tuning.best is not None
    assert tuning.best["score"] == max(one["score"] for one in tuning.observations)


def test_rows_are_sent_once(url: str) -> None:
    with Client(url) as client:
        tuning = Tuning(budget_s=BUDGET_S, records=records(30))
        assert "records" in tuning.question()
        tuning.ask(client)
    assert set(tuning.question()) & {"records", "metafeatures"} == {"metafeatures"}


def test_another_process_goes_on_where_the_first_stopped(url: str) -> None:
    with Client(url) as client:
        first = Tuning(budget_s=BUDGET_S, records=records(30))
        tune(client, first, 3)
        kept = json.loads(json.dumps(first.observations))
        second = Tuning(budget_s=BUDGET_S, records=records(30), observations=kept)
        assert second.ask(client) == first.ask(client)


def test_several_steps_at_once_are_different_ones(url: str) -> None:
    with Client(url) as client:
        tuning = Tuning(budget_s=1000.0, records=records(30))
        steps = [tuning.ask(client) for _ in range(3)]
    assert len({step.id for step in steps if step is not None}) == 3


def test_only_what_the_script_can_do_is_asked_for(url: str) -> None:
    only: dict[str, list[Any]] = {"peft_method": ["dora"], "batch_size": [8, 16]}
    with Client(url) as client:
        made = tune(client, Tuning(budget_s=1000.0, records=records(30), only=only), 4)
    assert {step.values["peft_method"] for step in made} == {"dora"}
    assert {step.values["batch_size"] for step in made} <= {8, 16}


def test_a_run_that_fails_is_left(url: str) -> None:
    with Client(url) as client:
        tuning = Tuning(budget_s=1000.0, records=records(30))
        step = tuning.ask(client)
        assert step is not None
        tuning.tell(step, None, None)
        after = tuning.ask(client)
    assert after is not None
    assert after.id != step.id
    assert tuning.best is None


def test_what_cannot_be_is_not_told(url: str) -> None:
    with Client(url) as client:
        tuning = Tuning(budget_s=1000.0, records=records(30))
        step = tuning.ask(client)
    assert step is not None
    for score, cost_s, words in ((1.5, 1.0, "score is 1.5"), (math.nan, 1.0, "score"), (0.5, -1.0, "cost is -1")):
        with pytest.raises(UserError, match=words):
            tuning.tell(step, score, cost_s)
    tuning.tell(step, 0.5, 1.0)
    with pytest.raises(UserError, match="not under way"):
        tuning.tell(step, 0.5, 1.0)


def test_the_example_tunes_a_script_that_knows_nothing_of_ftmeta(url: str, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in records(60)))
    script = ROOT / "examples" / "finetune_bigrams.py"
    assert "ftmeta" not in script.read_text().split('"""')[2]
    line = "--data {data} --learning-rate {learning_rate} --rank {lora_rank} --alpha {alpha_per_rank} "
    line += "--batch-size {batch_size} --until {fidelity} --checkpoint {folder}/{id}.npz"
    command = [sys.executable, str(ROOT / "examples" / "tune_any_script.py"), str(data), "--budget-s", "2.5"]
    command += ["--url", url, "--folder", str(tmp_path / "tuning"), "--", sys.executable, str(script), *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)
    assert best["score"] > 0  # how much comes of so many CPU-seconds depends on the machine
    assert best["pipeline"]["values"]["peft_method"] == "lora"
    seen = json.loads((tmp_path / "tuning" / "observations.json").read_text())
    assert best in seen
    assert (tmp_path / "tuning" / f"{best['pipeline']['id']}.npz").exists()
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert again.returncode == 0
    assert json.loads(again.stdout)["score"] >= best["score"]
    assert json.loads((tmp_path / "tuning" / "observations.json").read_text())[: len(seen)] == seen
