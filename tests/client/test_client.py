"""The client against the real service, and against servers that misbehave."""

from __future__ import annotations

import asyncio
import datetime
import json
import pickle
import random
import subprocess
import sys
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from scripted import Said, scripted
from serving_client import records

from ftmeta.client import AccessError, AsyncClient, Client, RefusedError, Retry, UnavailableError
from ftmeta.client.retries import retry_after_s
from ftmeta.errors import DataError, FtmetaError, UserError

AT_ONCE = Retry(attempts=3, first_pause_s=0.0)
PROBLEM = {"detail": "too many questions are under way", "errors": [], "request_id": "abc"}
OWN = {"Content-Type": "application/problem+json"}
BUSY = Said(503, json.dumps(PROBLEM).encode(), {"Retry-After": "0"})


@pytest.mark.usefixtures("token")
class TestAgainstTheService:
    def test_recommendations_by_rows_and_by_meta_features(self, url: str) -> None:
        with Client(url) as client:
            by_rows = client.recommend(records(30), top_k=2, front=True)
            assert len(by_rows["recommendations"]) == 2
            assert by_rows["front"][-1]["score"] >= by_rows["recommendations"][0]["score"]
            again = client.recommend(metafeatures=by_rows["metafeatures"], top_k=2)
        assert again["recommendations"] == by_rows["recommendations"]

    def test_the_selector_describes_itself(self, url: str) -> None:
        with Client(url) as client:
            assert client.selector()["space"]["name"] == "lora-v1"

    def test_a_refusal_names_field_and_request_and_is_not_repeated(self, url: str) -> None:
        with Client(url) as client, pytest.raises(RefusedError, match=r"422: .*base_model.*request [0-9a-f]{32}"):
            client.recommend(records(30), base_model="gpt-5")

    def test_without_a_valid_token_there_is_no_access(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with Client(url, token="wrong") as client, pytest.raises(AccessError, match="Bearer TOKEN"):
            client.selector()
        monkeypatch.delenv("FTMETA_API_TOKEN")
        with Client(url) as client, pytest.raises(AccessError, match="401"):
            client.selector()

    def test_the_coroutines_answer_the_same(self, url: str) -> None:
        async def ask() -> list[dict[str, Any]]:
            async with AsyncClient(url) as client:
                one = client.recommend(records(30), top_k=1)
                return list(await asyncio.gather(one, client.suggest(records(30), budget_s=60.0), client.selector()))

        recommended, suggested, described = asyncio.run(ask())
        with Client(url) as client:
            assert client.recommend(records(30), top_k=1)["recommendations"] == recommended["recommendations"]
            assert client.suggest(records(30), budget_s=60.0)["pipeline"] == suggested["pipeline"]
            assert client.selector() == described

    def test_in_process_without_a_network(self, app: FastAPI) -> None:
        async def ask() -> dict[str, Any]:
            transport = httpx.ASGITransport(app)
            async with AsyncClient("http://service.example/", transport=transport) as client:
                return await client.selector()

        assert asyncio.run(ask())["name"] == "tiny-0"


class TestWhenThingsGoWrong:
    @pytest.mark.parametrize(
        "first", [BUSY, Said(429, b"{}"), Said(500, b"dead"), Said(502, b"<html>"), Said(torn=True)]
    )
    def test_what_passes_is_waited_for(self, first: Said) -> None:
        with scripted(first, Said()) as server, Client(server.url, retry=AT_ONCE) as client:
            assert client.recommend(records(1)) == {"ok": True}
        assert len(server.requests) == 2
        assert server.requests[0] == server.requests[1]

    def test_coroutines_wait_too(self) -> None:
        async def ask(url: str) -> dict[str, Any]:
            async with AsyncClient(url, retry=AT_ONCE) as client:
                return await client.recommend(records(1))

        with scripted(BUSY, Said(torn=True), Said()) as server:
            assert asyncio.run(ask(server.url)) == {"ok": True}
            assert len(server.requests) == 3

    def test_a_service_that_stays_busy_is_given_up(self) -> None:
        with scripted(BUSY) as server, Client(server.url, retry=AT_ONCE) as client:
            with pytest.raises(UnavailableError, match="503: too many questions"):
                client.recommend(records(1))
            assert len(server.requests) == 3

    def test_one_that_asks_for_an_hour_is_given_up_at_once(self) -> None:
        hour = Said(503, json.dumps(PROBLEM).encode(), {"Retry-After": "3600"})
        with scripted(hour) as server, Client(server.url, retry=AT_ONCE) as client:
            with pytest.raises(UnavailableError):
                client.recommend(records(1))
            assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("said", "error", "words"),
        [
            (Said(500, json.dumps(PROBLEM).encode(), OWN), UnavailableError, "500"),
            (Said(413, json.dumps({**PROBLEM, "errors": [{"field": "body"}]}).encode()), RefusedError, r"\(body\)"),
            (Said(404, b"not found"), UnavailableError, "without a problem document"),
            (Said(200, b"<html>welcome"), UnavailableError, "is it ftmeta's service"),
            (Said(200, b"[]"), UnavailableError, "is it ftmeta's service"),
            (Said(307, b"", {"Location": "http://127.0.0.1:9/"}), UnavailableError, "307"),
        ],
    )
    def test_what_does_not_pass_is_said_at_once(self, said: Said, error: type[FtmetaError], words: str) -> None:
        with scripted(said) as server, Client(server.url, retry=AT_ONCE) as client:
            with pytest.raises(error, match=words) as raised:
                client.recommend(records(1))
            assert len(server.requests) == 1
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)

    def test_a_silent_service_is_not_waited_for_for_ever(self) -> None:
        patient = Retry(attempts=2, first_pause_s=0.0)
        with (
            scripted(Said(silent=True)) as server,
            Client(server.url, timeout_s=0.2, retry=patient) as client,
            pytest.raises(UnavailableError, match="asked 2 times and did not answer"),
        ):
            client.recommend(records(1))

    def test_nobody_there(self) -> None:
        with scripted(Said()) as server:
            gone = server.url
        with Client(gone, retry=Retry(attempts=1)) as client, pytest.raises(UnavailableError, match="asked once"):
            client.selector()

    @pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes", "\ud800"])
    def test_what_json_cannot_say_is_never_sent(self, value: Any) -> None:
        with scripted(Said()) as server, Client(server.url) as client:
            with pytest.raises(DataError, match="cannot be written as JSON"):
                client.recommend([{"question": value, "answer": "a"}])
            assert server.requests == []

    def test_a_dataset_is_given_once(self) -> None:
        with Client("http://127.0.0.1:9") as client:
            for given in ({}, {"records": [], "metafeatures": {}}):
                with pytest.raises(UserError, match="and not both"):
                    client.recommend(**given)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="no address"):
            Client("127.0.0.1:8000")


class TestPauses:
    def test_they_double_and_have_an_end(self) -> None:
        retry, rng = Retry(attempts=6, first_pause_s=1.0, longest_pause_s=5.0), random.Random(0)
        for attempt, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5, 5.0)):
            pauses = [retry.pause_s(attempt, None, rng) for _ in range(200)]
            assert all(pause is not None and 0 <= pause <= most for pause in pauses)
            assert max(filter(None, pauses)) > 0.9 * most
        assert retry.pause_s(6, None, rng) is None

    def test_the_services_word_is_the_least(self) -> None:
        retry, rng = Retry(first_pause_s=0.1, longest_pause_s=5.0), random.Random(0)
        assert retry.pause_s(1, 3.0, rng) == 3.0
        assert retry.pause_s(1, 6.0, rng) is None

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            (None, None),
            ("7", 7.0),
            (" 0 ", 0.0),
            ("soon", None),
            ("-3", None),
            ("Thu, 26 Nov 2026 12:00:30 GMT", 30.0),
            ("Thu, 26 Nov 2026 11:00:00 GMT", 0.0),
        ],
    )
    def test_both_forms_of_the_header_are_read(self, header: str | None, seconds: float | None) -> None:
        noon = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
        assert retry_after_s(header, noon) == seconds


def test_importing_it_is_light() -> None:
    """A training script that asks what to run next pays for nothing that it does not use."""
    heavy = "{'numpy', 'torch', 'ray', 'pydantic', 'fastapi', 'httpx', 'scipy'}"
    program = f"import sys, ftmeta.client; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
