"""The command line: help, JSON, exit codes, and one message for each mistake."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftmeta.cli import main
from ftmeta.cli.output import duration, money
from ftmeta.cli.recommending import parse_time
from ftmeta.errors import UserError
from ftmeta.schema import Pipeline
from ftmeta.space import load_space, pipeline_yaml

Run = Callable[..., "Outcome"]


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def ftmeta(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command as the console script would."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ftmeta", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        return Outcome(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = (
        {"question": f"What colour is item number {i}?", "answer": ["red", "green", "blue"][i % 3]} for i in range(80)
    )
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


COMMANDS = [
    ("recommend",),
    ("finetune",),
    ("collect",),
    ("metatrain",),
    ("metadata", "describe"),
    ("metadata", "import"),
    ("metadata", "from-mlflow"),
    ("metadata", "to-mlflow"),
    ("tasks", "list"),
    ("tasks", "show"),
    ("tasks", "check"),
    ("space", "show"),
    ("space", "sample"),
    ("space", "validate"),
    ("models", "list"),
    ("models", "fetch"),
    ("serve",),
    ("doctor",),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(ftmeta: Run, command: tuple[str, ...]) -> None:
    helped = ftmeta(*command, "--help")
    assert helped.code == 0
    assert "Example: ftmeta" in helped.out
    assert command == ("serve",) or "--json" in helped.out


def test_help_is_instant_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; import ftmeta.cli;"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'pandas', 'numpy', 'scipy', 'pyarrow', 'pydantic'};"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""
    assert done.returncode == 0


def test_tasks_list(ftmeta: Run) -> None:
    tasks = ftmeta("tasks", "list", "--json").document["tasks"]
    assert {"world-facts", "elements", "python-stdlib", "web-platform"} <= {task["name"] for task in tasks}
    assert all(set(task["splits"]) == {"train", "validation", "test"} and task["licence"] for task in tasks)
    assert "world-facts" in ftmeta("tasks", "list").out


def test_tasks_show_of_a_file(ftmeta: Run, dataset: Path) -> None:
    document = ftmeta("tasks", "show", dataset, "--samples", 2, "--json").document
    assert sum(document["splits"].values()) == 80
    assert len(document["samples"]) == 2
    shown = ftmeta("tasks", "show", dataset)
    assert shown.code == 0, shown.err
    assert "What colour is item number" in shown.out
    assert "answer" in shown.out


def test_space_show_sample_validate(ftmeta: Run, tmp_path: Path) -> None:
    shown = ftmeta("space", "show", "--json").document
    assert shown["name"] == "lora-v1"
    assert len(shown["hyperparameters"]) == 17
    assert "lr_multiplier" in ftmeta("space", "show").out
    (first, second) = ftmeta("space", "sample", "--n", 2, "--seed", 5, "--json").document["pipelines"]
    assert first["id"] != second["id"]
    printed = list(yaml.safe_load_all(ftmeta("space", "sample", "--n", 2, "--seed", 5).out))
    assert [dict(one["hyperparameters"]) for one in printed] == [first["values"], second["values"]]
    path = tmp_path / "p.yaml"
    path.write_text(pipeline_yaml(Pipeline("lora-v1", first["values"])), encoding="utf-8")
    assert (
        ftmeta("space", "validate", "lora-v1", "--pipeline", path, "--json").document["pipeline"]["id"] == first["id"]
    )
    path.write_text("{space: lora-v1, hyperparameters: {peft_method: lorra}}", encoding="utf-8")
    refused = ftmeta("space", "validate", "lora-v1", "--pipeline", path)
    assert refused.code == 2
    assert "'lorra'; give one of dora, ia3, lora, rslora" in refused.err


def test_models_list(ftmeta: Run) -> None:
    models = {model["name"]: model for model in ftmeta("models", "list", "--json").document["models"]}
    assert models["phi3-micro"]["reference_lr"] == pytest.approx(4.28e-3, rel=1e-2)
    assert "smollm2-135m" in models
    assert "phi3-micro" in ftmeta("models", "list").out


def test_doctor_names_what_is_missing(ftmeta: Run) -> None:
    checks = ftmeta("doctor", "--json").document["checks"]
    assert all(set(check) == {"name", "part", "ok", "found", "wanted", "fix"} for check in checks)
    assert all(check["ok"] or check["fix"] for check in checks)
    assert next(check for check in checks if check["name"] == "import mlflow")["ok"]
    assert ftmeta("doctor", "--part", "nonsense").code == 2


def test_the_first_recommendation_is_left_for_another_tool(ftmeta: Run, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "for-trl"
    document = ftmeta("recommend", dataset, "--export", "trl", "--out", out, "--json").document
    exported = document["export"]
    assert exported["folder"] == str(out)
    assert all((out / name).is_file() for name in exported["files"])
    assert exported["command"] in (out / "README.md").read_text()
    assert str(out) in ftmeta("recommend", dataset, "--export", "ftmeta", "--out", f"{out}-2").out
    for wrong, said in (
        (["--export", "trl", "--out", out], "exists already"),
        (["--export", "trl"], "belong together"),
        (["--export", "unsloth", "--out", f"{out}-3"], "unknown export format 'unsloth'; choose one of ftmeta, trl"),
    ):
        refused = ftmeta("recommend", dataset, *wrong)
        assert refused.code == 2
        assert said in refused.err


def test_recommend_ranks_pipelines_for_a_file(ftmeta: Run, dataset: Path) -> None:
    document = ftmeta("recommend", dataset, "--top", 3, "--json").document
    assert {"task", "base_model", "metafeatures", "recommendations", "selector"} <= set(document)
    rows = document["recommendations"]
    assert len(rows) == 3
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    for row in rows:
        assert 0 <= row["score_low"] <= row["score"] <= row["score_high"] <= 1
        assert len(row["curve"]) == load_space().max_fidelity
        assert row["cost_s"] > 0
        load_space().validate(row["pipeline"]["values"])
    shown = ftmeta("recommend", dataset, "--top", 3).out
    assert f"{rows[0]['score']:.2f}" in shown
    assert document["selector"]["version"] in shown


def test_a_budget_is_kept_or_the_cheapest_is_named(ftmeta: Run, dataset: Path) -> None:
    free = ftmeta("recommend", dataset, "--json").document["recommendations"][0]
    limit = 0.9 * free["cost_s"]
    for row in ftmeta("recommend", dataset, "--budget", f"{limit:.3f}s", "--json").document["recommendations"]:
        assert row["cost_s"] <= limit
    refused = ftmeta("recommend", dataset, "--budget", "0.001s")
    assert refused.code == 2
    assert "cheapest" in refused.err


def test_finetune_leaves_an_adapter_and_beats_zero_shot(ftmeta: Run, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    document = ftmeta("finetune", dataset, "--pipeline", "strong-default", "--out", out, "--json").document
    assert document["status"] == "ok"
    assert [point["fidelity"] for point in document["curve"]] == list(range(11))
    assert document["test"]["nll"] < document["zero_shot"]["nll"]
    assert document["test"]["score"] > 0 == document["zero_shot"]["score"]
    assert Path(document["adapter"]) == out / "adapter"
    assert {path.name for path in out.iterdir()} == {"adapter", "pipeline.yaml", "run.json"}
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((out / "run.json").read_text())["run_id"] == document["run_id"]

    (tmp_path / "a-file").touch()
    nowhere = ftmeta("finetune", dataset, "--pipeline", "strong-default", "--out", tmp_path / "a-file" / "run")
    assert nowhere.code == 2
    assert "cannot be written" in nowhere.err

    again = ftmeta("finetune", dataset, "--pipeline", out / "pipeline.yaml", "--out", out)
    assert again.code == 2
    assert "exists already" in again.err


def test_a_run_may_stop_early(ftmeta: Run, dataset: Path, tmp_path: Path) -> None:
    options = ("--pipeline", "best", "--fidelity", 2, "--out", tmp_path / "run", "--json")
    document = ftmeta("finetune", dataset, *options).document
    assert document["status"] == "stopped"
    assert len(document["curve"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recommend", "nothing-here.jsonl"), "nothing-here.jsonl"),
        (("recommend", "wrold-facts"), "wrold-facts"),
        (("recommend", "elements", "--budget", "soon"), "30m"),
        (("recommend", "elements", "--budget", "0m"), "more than 0 s"),
        (("recommend", "elements", "--base-model", "phi3-mirco"), "phi3-micro"),
        (("recommend", "elements", "--hardware", "abacus"), "h100-80gb"),
        (("recommend", "elements", "--selector", "no-such-folder"), "no-such-folder"),
        (("finetune", "elements", "--pipeline", "best-ever"), "strong-default"),
        (("finetune", "elements", "--fidelity", "11"), "ends at 10"),
        (("finetune", "elements", "--device", "tpu"), "cpu, cuda"),
        (("space", "show", "lora-v9"), "lora-v1"),
        (("metadata", "describe", "no-such-folder"), "no-such-folder"),
        (("metatrain", "--metadata", "no-such-folder", "--out", "x"), "no-such-folder"),
        (("collect", "no-such-sweep.yaml", "--out", "x"), "no-such-sweep.yaml"),
        (("models", "fetch", "phi3-mirco"), "phi3-mirco"),
    ],
)
def test_mistakes_exit_with_2_and_one_message(
    ftmeta: Run, arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ftmeta(*arguments, "--json")
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5m", 30), ("45", 45), (None, None)],
)
def test_budgets(text: str | None, seconds: float | None) -> None:
    assert parse_time(text, "--budget") == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 m", "five", "5m3", "0s"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UserError):
        parse_time(text, "--budget")


def test_durations_and_money() -> None:
    assert [duration(s) for s in (0.04, 59.9, 200, 7500)] == ["0.0 s", "59.9 s", "3 min 20 s", "2 h 05 min"]
    assert [money(usd) for usd in (None, 0.0012, 3.5, 1234.5)] == ["unknown", "$0.0012", "$3.50", "$1,234.50"]
