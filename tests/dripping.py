"""A server whose answers are right and come byte by byte, in a thread of the tests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Part = Literal["headers", "body", "chunks", "refusal"]
PAUSE = 0.02
"""Seconds between two bytes: below any timeout of a single read."""
LIMIT = 0.4
"""Seconds that a request may take in the tests."""
LEAST = 100
"""Bytes that drip, at least: five times as long as the limit."""


@contextmanager
def dripping(answer: Callable[[str], Any], slow: Callable[[str], bool], part: Part) -> Iterator[str]:
    """The address of a server that says ``answer(path)``, and drips a part of it where the path is ``slow``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told = json.dumps(answer(self.path)).encode()
            told += b" " * max(0, LEAST - len(told))
            drips = slow(self.path)
            status = b"503 Unavailable" if drips and part == "refusal" else b"200 OK"
            length = b"Content-Length: %d\r\n" % len(told)
            if drips and part == "chunks":
                length, told = (
                    b"Transfer-Encoding: chunked\r\n",
                    b"".join(b"1\r\n%c\r\n" % one for one in told) + b"0\r\n\r\n",
                )
            head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nX-Long: %b\r\n%b\r\n" % (
                status, b"x" * LEAST, length,
            )  # fmt: skip
            with suppress(OSError):
                self.say(head, drips and part == "headers")
                self.say(told, drips and part != "headers")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def say(self, content: bytes, slowly: bool) -> None:
            for i in range(0, len(content), 1 if slowly else len(content)):
                self.wfile.write(content[i : i + (1 if slowly else len(content))])
                if slowly:
                    time.sleep(PAUSE)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
