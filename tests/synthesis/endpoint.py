"""A server that speaks the chat protocol of OpenAI-compatible endpoints, and misbehaves on purpose.

It makes two pairs of each sentence `The lamp of NAME was lit in YEAR by PERSON.` in what it is asked about.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SENTENCE = re.compile(r"The lamp of ([\w ]+?) was lit in (\d{4}) by ([\w ]+?)\.")
USAGE = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
Behaviour = str
Script = Callable[[int, str], Behaviour]  # from the number of the request, from 0, and the prompt


@dataclass
class Endpoint:
    script: Script
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    at_once: int = 0
    most_at_once: int = 0


@contextlib.contextmanager
def endpoint(script: Script | Behaviour = "pairs") -> Iterator[Endpoint]:
    state = Endpoint((lambda number, prompt: script) if isinstance(script, str) else script)

    class Handler(_Handler):
        endpoint = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def pairs_of(prompt: str) -> list[dict[str, str]]:
    return [
        pair
        for name, year, person in SENTENCE.findall(prompt)
        for pair in (
            {"question": f"When was the lamp of {name} lit?", "answer": f"In {year}"},
            {"question": f"Which person put fire to the lamp of {name}?", "answer": person},
        )
    ]


def first_words(prompt: str) -> list[dict[str, str]]:
    """A pair of each paragraph of any text."""
    paragraphs = [paragraph.split() for paragraph in prompt.split("\n\n") if len(paragraph.split()) > 12]
    return [
        {"question": f"What is meant by {' '.join(words[4:10])}?", "answer": " ".join(words[:4])}
        for words in paragraphs
    ]


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # a client that was killed
            super().handle()

    def do_POST(self) -> None:
        state = self.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            number = len(state.requests)
            state.requests.append(body)
            state.keys.add(self.headers["Authorization"] or "")
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
        prompt = body["messages"][-1]["content"]
        try:
            self._behave(state.script(number, prompt), prompt)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has had enough
        finally:
            with state.lock:
                state.at_once -= 1

    def _behave(self, behaviour: Behaviour, prompt: str) -> None:
        text = json.dumps(pairs_of(prompt))
        match behaviour:
            case "pairs":
                self._say(text)
            case "slow pairs":
                time.sleep(0.2)
                self._say(text)
            case "half":
                self._say(text[: len(text) * 2 // 3], finish="length")
            case "empty":
                self._say("[]")
            case "refusal":
                self._say("I'm sorry, but I can't help with that.")
            case "filtered":
                self._say("", finish="content_filter")
            case "chatter":
                self._say("What a lovely text about lamps!")
            case "no usage":
                self._say(text, usage=None)
            case "no choices":
                self._send(200, {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": []})
            case "thinks until it is cut":
                self._say("<think>A lamp, hm. " * 50, finish="length")
            case "first words":
                self._say(json.dumps(first_words(prompt)))
            case "everything":
                self._say(
                    json.dumps([{"question": f"Which lamp is lamp {i}?", "answer": "Arle"} for i in range(10_000)])
                )
            case "odd usage":
                self._say(text, usage={"prompt_tokens": None, "completion_tokens": -5, "total_tokens": "many"})
            case "parts":
                self._say([{"type": "text", "text": text}])
            case "error in a reply":
                self._send(200, {"error": {"message": "model overloaded", "code": 503}})
            case "stream":
                self._raw(200, b'data: {"choices": []}\n\ndata: [DONE]\n\n', "text/event-stream")
            case "null":
                self._raw(200, b"null")
            case "other protocol":
                self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
                self.close_connection = True
            case "drip":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                for _ in range(1000):
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            case "redirect":
                self._raw(307, b"", headers={"Location": self.path})
            case "repeats the key":
                self._send(400, {"error": {"message": f"no luck with {self.headers['Authorization']}"}})
            case "half body":
                raw = json.dumps({"choices": [{"message": {"content": text}}]}).encode()[:40]
                self._raw(200, raw)
            case "html":
                self._raw(200, b"<html>a proxy says hello</html>", "text/html")
            case "silence":
                time.sleep(3)
                self.close_connection = True
            case "hang up":
                self.close_connection = True
            case "too long":
                self._send(
                    400, {"error": {"message": "maximum context length exceeded", "type": "invalid_request_error"}}
                )
            case "429":
                self._send(429, {"error": {"message": "slow down", "type": "rate_limit"}}, {"Retry-After": "0.1"})
            case "429 for an hour":
                self._send(429, {"error": {"message": "slow down", "type": "rate_limit"}}, {"Retry-After": "3600"})
            case "500" | "503" | "401" | "402" | "404":
                self._send(int(behaviour), {"error": {"message": f"error {behaviour}", "type": "server_error"}})
            case _:
                raise ValueError(behaviour)

    def _say(self, text: Any, finish: str = "stop", usage: dict[str, Any] | None = USAGE) -> None:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": finish}
        document: dict[str, Any] = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }
        if usage is not None:
            document["usage"] = usage
        self._send(200, document)

    def _send(self, code: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._raw(code, json.dumps(document).encode(), headers=headers)

    def _raw(
        self, code: int, body: bytes, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
