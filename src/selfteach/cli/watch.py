"""``selfteach watch RUN``: the report of a run that goes on, in a browser on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Annotated, Any

import tyro
from annotated_types import Interval

from selfteach.cli.console import parsed
from selfteach.errors import UserError
from selfteach.report import build_report
from selfteach.settings import PositiveInt, settings

LOCALHOST = "127.0.0.1"
READ = ("config.toml", "metrics.jsonl", "samples.jsonl", "summary.json", "failed/*", "tokens/*", "probe/*")
"""What of a run folder the report may show: a change of these, and no other, makes it anew."""


@settings
class Arguments:
    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    port: Annotated[int, Interval(ge=0, le=65_535)] = 8631
    """Port on 127.0.0.1 (0: any free one)."""
    every: PositiveInt = 10
    """Seconds after which the page loads itself again, until the run has ended."""


@dataclass
class Page:
    """A run's report, made anew when its folder has changed; the run folder itself is not written to."""

    run: Path
    out: Path
    lock: Lock = field(default_factory=Lock)
    made_of: tuple[tuple[str, int, int], ...] | None = None
    html: bytes = b""

    def __call__(self) -> bytes:
        """The page as it should be now. Raises UserError while the folder holds no run."""
        with self.lock:
            state = tuple(fingerprint(path) for pattern in READ for path in sorted(self.run.glob(pattern)))
            if state != self.made_of:
                self.html = build_report(self.run, self.out).read_bytes()
                self.made_of = state
            return self.html

    @property
    def ended(self) -> bool:
        return (self.run / "summary.json").exists()


def fingerprint(path: Path) -> tuple[str, int, int]:
    try:
        seen = path.stat()
    except FileNotFoundError:  # a resumed run has just taken it back
        return str(path), 0, 0
    return str(path), seen.st_mtime_ns, seen.st_size


class Server(ThreadingHTTPServer):
    """Serves one page at / to this machine alone. Raises UserError if the port is taken."""

    daemon_threads = True

    def __init__(self, page: Page, port: int, every: PositiveInt) -> None:
        self.page, self.every = page, every
        try:
            super().__init__((LOCALHOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: {error}; choose another, or 0 for any free one") from error

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def hosts(self) -> frozenset[str]:
        """What a browser on this machine calls this server. Another name is a page that rebinds its own to us."""
        names = {f"{host}:{self.port}" for host in (LOCALHOST, "localhost")}
        return frozenset(names | ({LOCALHOST, "localhost"} if self.port == 80 else set()))

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that reloads before the page has come is no fault worth a traceback.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "selfteach", ""

    def do_GET(self) -> None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self.answer(HTTPStatus.MISDIRECTED_REQUEST, b"Ask for this page as localhost.")
        elif self.path != "/":
            self.answer(HTTPStatus.NOT_FOUND, b"There is only one page: /")
        else:
            self.report()

    def report(self) -> None:
        # Asked before the page is made: the page that has the end in it must still be loaded once.
        again = {} if self.server.page.ended else {"Refresh": str(self.server.every)}
        try:
            html = self.server.page()
        except UserError as problem:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, str(problem).encode(), "text/plain", again)
        else:
            self.answer(HTTPStatus.OK, html, "text/html", again)

    def answer(
        self, status: HTTPStatus, body: bytes, kind: str = "text/plain", more: dict[str, str] | None = None
    ) -> None:
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            **(more or {}),
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not worth a line each."""


def command(words: Sequence[str]) -> int:
    """Serve until Ctrl-C."""
    given = parsed(Arguments, words, program="selfteach watch")
    if not os.path.isdir(given.run):
        raise UserError(f"{given.run} is no folder; give the --out of a run")
    with (
        TemporaryDirectory() as aside,
        Server(Page(given.run, Path(aside) / "report.html"), given.port, given.every) as server,
    ):
        print(f"http://{LOCALHOST}:{server.port}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)
    return 0
