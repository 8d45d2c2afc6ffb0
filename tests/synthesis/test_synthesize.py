"""Documents to a task through Ray, with an endpoint that misbehaves, is down, and comes back."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ftmeta.errors import ConfigError, DataError, FtmetaError
from ftmeta.orchestrate.execution import connected
from ftmeta.orchestrate.synthesize import synthesize
from ftmeta.synthesis.settings import Synthesis
from ftmeta.tasks import load_task
from tests.synthesis.conftest import lamps
from tests.synthesis.endpoint import endpoint

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def ray() -> Any:
    with connected(num_cpus=2):
        yield


def settings(documents: Path, url: str, **changes: Any) -> Synthesis:
    return Synthesis(documents=str(documents), model="m", llm_url=url, timeout_s=1, retries=1, **changes)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "task.jsonl").read_text(encoding="utf-8").splitlines()]


def test_documents_become_a_task(documents: Path, tmp_path: Path) -> None:
    (documents / "picture.pdf").write_bytes(b"%PDF-1.7 broken")
    (documents / "blob.txt").write_bytes(bytes(range(256)) * 20)
    (documents / "letter.docx").write_bytes(b"x")
    (documents / "a-copy.txt").write_text((documents / "lamps-3.txt").read_text())
    with endpoint("slow pairs") as server:
        document = synthesize(settings(documents, server.url), tmp_path / "out")
        assert server.most_at_once > 1
        asked = len(server.requests)
    assert (document["complete"], document["unfinished"], document["split_by"]) == (True, None, "document")
    assert document["documents"]["read"] == 9
    assert document["documents"]["passed_over"] == {".docx": 1}
    assert {one["document"] for one in document["documents"]["reasons"]} == {"picture.pdf", "blob.txt"}
    assert document["passages"]["asked"] == asked
    pairs = document["pairs"]
    assert pairs["generated"] == pairs["kept"] + sum(pairs["dropped"].values()) == 96
    assert document["tokens"] == {"prompt": 100 * asked, "completion": 50 * asked, "budget": None}

    task = load_task(tmp_path / "out")
    assert task.name == "out"
    assert {split: len(examples) for split, examples in task.splits.items()} == document["splits"]
    split_of = {(row["document"], row["split"]) for row in rows(tmp_path / "out")}
    assert len({name for name, _ in split_of}) == len(split_of)  # no document in two splits
    assert {name for name, _ in split_of} == {path.name for path in documents.glob("*amps-[0-7].txt")} - {
        "lamps-3.txt"  # all its passages stand in the copy, which comes first
    } | {"a-copy.txt"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "picture.pdf" in page
    assert f"{pairs['kept']}</b>of 96 pairs kept" in page
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["samples"]["kept"]


def test_whatever_the_endpoint_does_is_counted(documents: Path, tmp_path: Path) -> None:
    lamp = re.compile(r"Pier (\d+)\b")
    odd = {0: "half", 1: "empty", 2: "refusal", 3: "chatter", 4: "too long", 5: "html"}

    def script(number: int, prompt: str) -> str:
        first = lamp.search(prompt)
        assert first is not None
        return odd.get(int(first[1]) // 10, "pairs")

    with endpoint(script) as server:
        document = synthesize(settings(documents, server.url), tmp_path / "out")
        outcomes = document["replies"]
        assert set(outcomes) == {"ok", "empty", "refused", "malformed", "failed"}
        assert sum(outcomes.values()) == document["passages"]["asked"] == document["passages"]["chosen"]
        assert sum(one["passages"] for one in document["failures"]) == outcomes["failed"]
        before = len(server.requests)
        same = synthesize(settings(documents, server.url), tmp_path / "out")  # all is done
        assert len(server.requests) == before
        assert {**same, "tokens": None} == {**document, "tokens": None}
        server.script = lambda number, prompt: "pairs"
        mended = synthesize(settings(documents, server.url), tmp_path / "out", retry_failed=True)
        assert len(server.requests) == before + outcomes["failed"]
        assert "failed" not in mended["replies"]
        assert mended["pairs"]["generated"] > document["pairs"]["generated"]


def test_an_endpoint_that_goes_down_costs_nothing_that_was_done(documents: Path, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"concurrency": 2}
    with endpoint(lambda number, prompt: "pairs" if number < 9 else "503") as server:
        with pytest.raises(
            FtmetaError, match=r"does not answer .*; 9 passages are done and kept: run the same command"
        ):
            synthesize(settings(documents, server.url, **chosen), tmp_path / "out")
        assert len(server.requests) < 30  # it is not asked about every passage
        report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
        assert report["complete"] is False
        assert report["passages"]["asked"] == 9
        assert "does not answer" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        server.requests.clear()
        server.script = lambda number, prompt: "pairs"
        document = synthesize(settings(documents, server.url, **chosen), tmp_path / "out")
        assert document["complete"]
        assert len(server.requests) == document["passages"]["chosen"] - 9
        whole = rows(tmp_path / "out")
    with endpoint() as server:
        synthesize(settings(documents, server.url), tmp_path / "other")
    assert whole == rows(tmp_path / "other")  # as if nothing had happened


def test_the_token_budget_is_kept_over_all_runs(documents: Path, tmp_path: Path) -> None:
    with endpoint() as server:
        budget = settings(documents, server.url, token_budget=4000)
        document = synthesize(budget, tmp_path / "out")
        spent = sum(document["tokens"][part] for part in ("prompt", "completion"))
        assert 0 < spent <= 4000
        assert "The budget of 4,000 tokens is spent" in document["unfinished"]
        assert document["passages"]["asked"] == len(server.requests) < document["passages"]["chosen"]
        synthesize(budget, tmp_path / "out")
        assert len(server.requests) == document["passages"]["asked"]
        assert synthesize(settings(documents, server.url), tmp_path / "out")["complete"]


def test_one_document_is_split_by_passage(tmp_path: Path) -> None:
    file = tmp_path / "lamps.md"
    file.write_text("# Lamps\n\n" + "\n\n".join(lamps(i, 8) for i in range(5)), encoding="utf-8")
    with endpoint() as server:
        document = synthesize(settings(file, server.url), tmp_path / "out")
    assert document["split_by"] == "passage"
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "so splits share documents" in " ".join(page.split())


def test_too_few_pairs_leave_a_report(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"l\xe4mps.txt")  # neither its name nor its text is UTF-8
    file.write_bytes(f"{lamps(0, 2)} There is a café beside it.".encode("latin-1"))
    with endpoint() as server:
        document = synthesize(settings(file, server.url), tmp_path / "out")
    assert document["task"] is None
    assert "at least 20 are needed" in document["too_few"]
    assert document["report"].endswith("report.html")
    assert document["documents"]["notes"] == [{"document": "l?mps.txt", "note": "read as windows-1252"}]


def test_mistakes_of_the_user(documents: Path, tmp_path: Path) -> None:
    with endpoint("401") as server, pytest.raises(ConfigError, match="refuses the key"):
        synthesize(settings(documents, server.url), tmp_path / "a", key="secret")
    with pytest.raises(ConfigError, match="is no address"):
        synthesize(settings(documents, "nowhere"), tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        synthesize(settings(tmp_path / "empty", "http://127.0.0.1:1/v1"), tmp_path / "c")
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "scan.pdf").write_bytes(b"no pdf")
    with pytest.raises(DataError, match=r"1 documents hold no passage to ask about \(scan\.pdf: "):
        synthesize(settings(tmp_path / "scan", "http://127.0.0.1:1/v1"), tmp_path / "d")
