"""A time limit on a whole request: timeouts of sockets are each read's, and a byte now and then keeps one alive."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from threading import Timer
from typing import Any

CONNECTED = (".connect_tcp.complete", ".start_tls.complete")
"""What httpcore calls the events that give a request its connection."""


class Deadline:
    """Ends a connection that is still at work ``seconds`` after it was given to ``watch``: whoever reads it is woken by
    the end of the stream, or an error, and sees that the time has ``passed``."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.passed = seconds, False
        self.timer: Timer | None = None

    def watch(self, connection: socket.socket) -> None:
        """From now on; a connection that was watched before is let go."""
        self.close()
        self.timer = Timer(self.seconds, self.end, (connection,))
        self.timer.daemon = True
        self.timer.start()

    def end(self, connection: socket.socket) -> None:
        self.passed = True
        with suppress(OSError):  # it has been closed by now
            # The plain socket's own: that of TLS would change what its reader is in the middle of.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def close(self) -> None:
        """What was to be read is read."""
        if self.timer is not None:
            self.timer.cancel()

    def __str__(self) -> str:
        return f"timed out: no whole answer within {self.seconds:g} s"

    def follow(self, event: str, info: Mapping[str, Any]) -> None:
        """As the ``trace`` of a request by httpx: what its connection is, and that all is done. TimeoutError in the
        place of the error that a connection of ours to end has raised."""
        if event.endswith(CONNECTED):
            self.watch(info["return_value"].get_extra_info("socket"))
        elif event.endswith((".response_closed.complete", ".failed")):
            self.close()
            if self.passed and event.endswith(".failed"):
                raise TimeoutError(str(self))


def limited(seconds: float, request: Any) -> None:
    """A hook of httpx's client for its requests: each connection has ``seconds``."""
    request.extensions["trace"] = Deadline(seconds).follow


def opened(request: urllib.request.Request, deadline: Deadline) -> HTTPResponse:
    """``urllib.request.urlopen`` of an address by HTTP or HTTPS, under the deadline. Raises what that does."""
    opener = urllib.request.build_opener(Plain(deadline), Secure(deadline))
    found: HTTPResponse = opener.open(request, timeout=deadline.seconds)
    return found


class Plain(urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self.deadline = deadline

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(PlainConnection, self.deadline), req)


class Secure(urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__(context=certificates())
        self.deadline = deadline

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(partial(SecureConnection, self.deadline), req, context=certificates())


class PlainConnection(HTTPConnection):
    def __init__(self, deadline: Deadline, host: str, **how: Any) -> None:
        super().__init__(host, **how)
        self.deadline = deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)


class SecureConnection(HTTPSConnection):
    def __init__(self, deadline: Deadline, host: str, **how: Any) -> None:
        super().__init__(host, **how)
        self.deadline = deadline

    def connect(self) -> None:
        super().connect()
        self.deadline.watch(self.sock)


@cache
def certificates() -> ssl.SSLContext:
    """The machine's, read once."""
    found = ssl.create_default_context()
    found.set_alpn_protocols(["http/1.1"])
    return found
