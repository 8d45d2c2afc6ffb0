"""A server that says what a test wants it to say, one answer a request: the edge of the client's world."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Said:
    status: int = 200
    body: bytes = b'{"ok": true}'
    headers: dict[str, str] = field(default_factory=dict)
    torn: bool = False  # the connection ends before the body does
    silent: bool = False  # no answer until the server is closed


@dataclass
class Server:
    url: str
    requests: list[bytes]  # their bodies


@contextmanager
def scripted(*answers: Said) -> Iterator[Server]:
    """The last answer is given for ever."""
    left = list(answers)
    requests: list[bytes] = []
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            said = left.pop(0) if len(left) > 1 else left[0]
            if said.silent:
                closing.wait(30)
                return
            self.send_response(said.status)
            for name, value in said.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(said.body) + (10 if said.torn else 0)))
            self.end_headers()
            self.wfile.write(said.body)
            self.close_connection = True

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}", requests)
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
