"""A server that speaks OpenAI's chat completions, well or badly, in a thread of the tests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, bytes] | None]
"""A request → status and body; None: never."""


def completion(text: Any, tokens: Any = 7) -> tuple[int, bytes]:
    told = {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"total_tokens": tokens},
    }
    return 200, json.dumps(told).encode()


@contextmanager
def serving(
    answer: Answer, models: tuple[str, ...] = ("writer",), listing: int = 200
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(base address, the requests so far) of a server; ``listing``: the status of its list of models."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(
                listing, json.dumps({"object": "list", "data": [{"id": one} for one in models]}).encode()
            )

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({**request, "key": self.headers.get("Authorization")})
            found = answer(request)
            if found is None:
                time.sleep(5)
                found = 200, b"{}"
            self.reply(*found)

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
