"""`ftmeta report`: a page from MLflow alone, that needs nothing else and says what is there."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ftmeta.cli import main
from ftmeta.errors import UserError
from ftmeta.tracking import tracker
from ftmeta.tracking.report import report
from tests.test_tracking import a_result, database
from tests.tracking.conftest import results

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]


class Balanced(HTMLParser):
    """Whether every element that is opened is closed."""

    alone = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.alone:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_of_a_sweep(history: str, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    document = report(history, "collect", out)
    made = results()[:10]
    best = {one["task"]: one for one in document["best"]}
    for task in ("task0", "task1"):
        mine = [one for one in made if one.run.task == task and one.curve]
        wanted = max(mine, key=lambda one: one.curve[-1].score or 0.0)
        assert best[task]["run_id"] == wanted.run.run_id
        assert best[task]["score"] == pytest.approx(wanted.curve[-1].score)
        assert best[task]["pipeline"]["lora_rank"] == str(wanted.run.pipeline["lora_rank"])
    assert {"status": "error", "error": "the worker died", "runs": 1} in document["failures"]
    assert document["cost_s"] == pytest.approx(sum(one.run.cost_s for one in made))

    page = out.read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert page.count("<figure>") == 4
    assert "the worker died" in page
    own = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert not re.search(r"(src|href)=\"(?!#)", own), "something is loaded from elsewhere"
    assert "<script" not in page


def test_a_recommended_run_has_its_plot_and_a_name_that_is_markup_is_text(tmp_path: Path) -> None:
    from dataclasses import replace

    from ftmeta.schema import RunResult
    from ftmeta.tracking.scheme import Prediction

    uri, one = database(tmp_path), a_result()
    single = tracker(uri, "finetune").single()
    single.log(RunResult(replace(one.run, task="<b>x</b>"), one.curve), predicted=Prediction(4.0, "v"))
    assert single.close("ok", {}) == 0
    report(uri, "finetune", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 5
    assert "<b>x</b>" not in page


def test_what_cannot_be_reported_is_said(history: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    with pytest.raises(UserError, match="has no experiment 'nothing'"):
        report(history, "nothing", tmp_path / "report.html")
    with pytest.raises(UserError, match="is a folder; name a file"):
        report(history, "collect", tmp_path)
    client = MlflowClient(tracking_uri=history)
    client.create_run(client.create_experiment("of others", str(tmp_path / "artifacts")))
    with pytest.raises(UserError, match="has no runs of ftmeta; 1 runs of others"):
        report(history, "of others", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command(
    history: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "page.html")
    monkeypatch.setattr("sys.argv", ["ftmeta", "report", "collect", "--tracking-uri", history, "--out", out, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["out"] == out
