"""The service in a process of its own, whose memory can be watched: `python fuzz_server.py SELECTOR MODEL`.

Prints its port when it answers. The base model is the tiny one in the folder MODEL.
"""

from __future__ import annotations

import socket
import sys

import uvicorn

from ftmeta.models import describe
from ftmeta.selector import load_selector
from ftmeta.serving.web import create_app

if __name__ == "__main__":
    app = create_app(load_selector(sys.argv[1]), base_models=[describe(sys.argv[2], "test/tiny")])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])
