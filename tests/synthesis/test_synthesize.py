"""Documents to a task through Ray, with an endpoint that misbehaves, is down, and comes back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftmeta.errors import ConfigError, DataError, FtmetaError, UserError
from ftmeta.orchestrate.connection import connected
from ftmeta.orchestrate.reading import read_passages
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
    return Synthesis(
        **{"documents": str(documents), "model": "m", "llm_url": url, "timeout_s": 1, "retries": 1} | changes
    )


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "task.jsonl").read_text(encoding="utf-8").splitlines()]


def test_documents_become_a_task(documents: Path, tmp_path: Path) -> None:
    (documents / "picture.pdf").write_bytes(b"%PDF-1.7 broken")
    (documents / "blob.txt").write_bytes(bytes(range(256)) * 20)
    (documents / "letter.docx").write_bytes(b"x")
    (documents / os.fsdecode(b"odd.\xff\x1b[31m")).write_bytes(b"x")
    (documents / "a-copy.txt").write_text((documents / "lamps-3.txt").read_text())
    with endpoint("slow pairs") as server:
        document = synthesize(settings(documents, server.url), tmp_path / "out")
        assert server.most_at_once > 1
        asked = len(server.requests)
    assert (document["complete"], document["unfinished"], document["split_by"]) == (True, None, "document")
    assert document["documents"]["read"] == 9
    assert document["documents"]["passed_over"] == {".docx": 1, ".??[31m": 1}
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
    chosen: dict[str, Any] = {"concurrency": 2, "retries": 0, "timeout_s": 0.5}
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


def test_an_endpoint_that_comes_back_is_waited_for(documents: Path, tmp_path: Path) -> None:
    with endpoint(lambda number, prompt: "503" if 5 <= number < 13 else "pairs") as server:
        document = synthesize(settings(documents, server.url, concurrency=2, retries=0), tmp_path / "out")
        assert document["complete"]
        assert len(server.requests) == document["passages"]["chosen"] + 8


def test_failures_before_any_reply_say_nothing_of_the_passages(documents: Path, tmp_path: Path) -> None:
    with endpoint("too long") as server:
        with pytest.raises(
            ConfigError, match=r"no reply to the first 8 passages: .*context length exceeded; mend that"
        ):
            synthesize(settings(documents, server.url, concurrency=1), tmp_path / "out")
        assert not (tmp_path / "out" / "report.json").exists()
        server.script = lambda number, prompt: "pairs"
        assert synthesize(settings(documents, server.url), tmp_path / "out")["complete"]
        server.script = lambda number, prompt: "401"
        with pytest.raises(ConfigError, match="asks for a key"):
            synthesize(settings(documents, server.url, pairs=3), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["complete"]  # the one that was there


def test_a_refusal_in_the_middle_is_tried_again(documents: Path, tmp_path: Path) -> None:
    with endpoint(lambda number, prompt: "401" if number in (3, 4, 9) else "pairs") as server:
        assert synthesize(settings(documents, server.url, concurrency=2), tmp_path / "out")["complete"]


def kill_writers() -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::_Writer"):
                process.kill()


def test_a_worker_that_dies_is_replaced(documents: Path, tmp_path: Path) -> None:
    def script(number: int, prompt: str) -> str:
        if number == 5:
            kill_writers()
        return "pairs"

    with endpoint(script) as server:
        document = synthesize(settings(documents, server.url, concurrency=2), tmp_path / "out")
        assert document["complete"]
        assert document["passages"]["chosen"] < len(server.requests) <= document["passages"]["chosen"] + 2


def test_workers_that_die_one_after_the_other_end_it(documents: Path, tmp_path: Path) -> None:
    def script(number: int, prompt: str) -> str:
        if number >= 5:
            kill_writers()
        return "pairs"

    with (
        endpoint(script) as server,
        pytest.raises(FtmetaError, match=r"3 workers with the language model died .*; what is done is kept"),
    ):
        synthesize(settings(documents, server.url, concurrency=1), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["passages"]["asked"] == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_report(documents: Path, tmp_path: Path, number: signal.Signals) -> None:
    def script(request: int, prompt: str) -> str:
        if request == 5:
            os.kill(os.getpid(), number)
        return "pairs" if request < 5 else "slow pairs"

    with endpoint(script) as server:
        with pytest.raises(KeyboardInterrupt):
            synthesize(settings(documents, server.url, concurrency=1), tmp_path / "out")
        report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
        assert report["unfinished"].startswith("Stopped; run the same command again")
        assert report["passages"]["asked"] == len((tmp_path / "out" / "generated.jsonl").read_text().splitlines()) < 8
        assert synthesize(settings(documents, server.url), tmp_path / "out")["complete"]


def test_the_token_budget_is_kept_over_all_runs(documents: Path, tmp_path: Path) -> None:
    with endpoint() as server:
        budget = settings(documents, server.url, token_budget=4000)
        document = synthesize(budget, tmp_path / "out")
        spent = sum(document["tokens"][part] for part in ("prompt", "completion"))
        assert 0 < spent <= 4000
        assert "The budget of 4,000 tokens allows no more" in document["unfinished"]
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


def test_what_it_wrote_itself_is_no_document(documents: Path, tmp_path: Path) -> None:
    out = documents / "out"
    with endpoint() as server:
        first = synthesize(settings(documents, server.url), out)
        again = synthesize(settings(documents, server.url), out)
    assert again["documents"]["read"] == first["documents"]["read"] == 8
    assert again["passages"] == first["passages"]


def test_what_somebody_mended_is_not_written_over(documents: Path, tmp_path: Path) -> None:
    task = tmp_path / "out" / "task.jsonl"
    with endpoint() as server:
        synthesize(settings(documents, server.url, passages=12), tmp_path / "out")
        mended = task.read_text(encoding="utf-8").replace("Which person", "Who")
        task.write_text(mended, encoding="utf-8")
        synthesize(settings(documents, server.url, passages=12), tmp_path / "out")
        assert task.read_text(encoding="utf-8") == mended  # nothing is new
        synthesize(settings(documents, server.url), tmp_path / "out")
        assert task.with_name("task-mended-1.jsonl").read_text(encoding="utf-8") == mended
        assert "Who" not in task.read_text(encoding="utf-8")
        synthesize(settings(documents, server.url, passages=2), tmp_path / "out")
        assert not task.exists()  # there are too few pairs for one now, and the report says so


def test_a_document_that_keeps_its_reader_busy_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"There are words in it. " * 3_000_000)
    (tmp_path / "short.txt").write_text(lamps(0, 1))
    files = [tmp_path / "long.txt", tmp_path / "short.txt"]
    found, inventory = read_passages(tmp_path, files, 10, limit_s=0.3)
    assert [passage.document for passage in found] == ["short.txt"]
    ((name, reason),) = inventory.unreadable
    assert name == "long.txt"
    assert "took more than 0.3 s or ended its process" in reason


def test_mistakes_of_the_user(documents: Path, tmp_path: Path) -> None:
    with endpoint("401") as server, pytest.raises(ConfigError, match="refuses the key"):
        synthesize(settings(documents, server.url), tmp_path / "a", key="secret")
    local = Synthesis(documents=str(documents), model="phi3-micro", cpus_per_model=3, gpus_per_model=1)
    with pytest.raises(ConfigError, match="is to get 3 CPU and 1 GPU, and no node has them"):
        synthesize(local, tmp_path / "a")
    with pytest.raises(ConfigError, match="language 'jp' is none that can be told"):
        synthesize(settings(documents, "http://127.0.0.1:1/v1", language="jp"), tmp_path / "b")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        synthesize(settings(documents, "http://127.0.0.1:1/v1"), tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("x")
    with pytest.raises(UserError, match=r"holds report.html but no generated.jsonl: this command has not made it"):
        synthesize(settings(documents, "http://127.0.0.1:1/v1"), tmp_path / "mine")
    with pytest.raises(ConfigError, match="is no address"):
        synthesize(settings(documents, "nowhere"), tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        synthesize(settings(tmp_path / "empty", "http://127.0.0.1:1/v1"), tmp_path / "c")
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "scan.pdf").write_bytes(b"no pdf")
    with pytest.raises(DataError, match=r"1 documents hold no passage to ask about \(scan\.pdf: "):
        synthesize(settings(tmp_path / "scan", "http://127.0.0.1:1/v1"), tmp_path / "d")
