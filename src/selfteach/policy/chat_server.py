"""Texts from an OpenAI-compatible server: requests side by side, a budget that is kept, answers that are not trusted.

For words alone (summaries, critiques): nothing is scored by it. The library ``openai`` speaks to the server; the key is
read from the environment variable OPENAI_API_KEY and written nowhere.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.policy.deadline import limited
from selfteach.task.example import Message
from selfteach.wording import shortened

SECONDS, RETRIES, AT_ONCE = 120.0, 3, 8
AROUND = 16
"""Tokens that a template may put around a message."""
LARGEST = 4 << 20
"""Bytes of one answer."""
SAID = 200
BUSY, LONGEST_PAUSE = 429, 8.0
ALIVE = 16
"""A server that has answered none of so many requests is taken for broken."""


@dataclass(frozen=True)
class ChatServer:
    """A ``model`` at the base address ``url`` (``http://localhost:8000/v1``).

    ``budget``: tokens, read and written, that it may be asked for in all (None: any number). Before a request is sent
    its room is set aside, a token for each byte that it holds and all that may be answered, so that the budget is never
    exceeded; what the server says that it was is counted then. ``seconds``: of each try, from connecting to
    the last byte of its answer. UserError for an address that is none, or holds a password.
    """

    url: str
    model: str
    budget: int | None = None
    seconds: float = SECONDS
    retries: int = RETRIES

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        require(
            parts.scheme in ("http", "https") and bool(parts.hostname),
            f"server {shortened(self.url, 80)!r} is no address: give one such as http://localhost:8000/v1",
        )
        require(
            parts.username is None and parts.password is None,
            "a server's address holds a name or password: put the key into the variable OPENAI_API_KEY",
        )
        require(bool(self.model), f"server {self.url}: name the model that is to answer")
        if find_spec("openai") is None:
            raise UserError(
                f"server {self.url} needs the package openai, which is not installed: pip install 'selfteach[served]'"
            )


@dataclass
class Account:
    """What was ``spent`` of a budget, ``asked`` and ``answered`` so far; counted under a lock."""

    spent: int = 0
    asked: int = 0
    answered: int = 0
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Account:
        return cls(counts.get("spent", 0), counts.get("asked", 0), counts.get("answered", 0))

    @property
    def counts(self) -> dict[str, int]:
        return {"spent": self.spent, "asked": self.asked, "answered": self.answered}

    def reserve(self, tokens: int, budget: int | None) -> bool:
        """Set tokens aside, if the budget has them."""
        with self.lock:
            if budget is not None and self.spent + tokens > budget:
                return False
            self.spent += tokens
            self.asked += 1
            return True

    def settle(self, reserved: int, used: int, answered: bool) -> None:
        with self.lock:
            self.spent += used - reserved
            self.answered += answered


def answers(
    server: ChatServer,
    conversations: Sequence[Sequence[Message]],
    account: Account,
    *,
    max_tokens: int,
    temperature: float = 1.0,
    whole: bool = False,
) -> list[str | None]:
    """The text that answers each conversation, in their order; None where the server gave none (it failed after
    ``retries``, or said what is no answer), or (``whole``) says that the length cut it.

    A message that announces tools is left out. UserError where the budget has no room for a request, the server refuses
    (a key, a name), or has answered none of its first 16 requests.
    """
    asking = Asking(server, account, max_tokens, temperature)
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="chat-server") as pool:
        found = list(pool.map(asking, conversations))
    asking.refuse_silence(account.asked)
    return [None if answer is None or (whole and answer.cut) else answer.text for answer in found]


@dataclass(frozen=True)
class Answer:
    """A text (None: there is none in it), the ``tokens`` that the server counts (None: it does not say), and whether
    the length ``cut`` it."""

    text: str | None
    tokens: int | None
    cut: bool


class Asking:
    """Asks for one answer after the other, by several threads at once."""

    def __init__(self, server: ChatServer, account: Account, max_tokens: int, temperature: float) -> None:
        self.server, self.account = server, account
        self.max_tokens, self.temperature = max_tokens, temperature
        # Each try is set aside by itself, for each may be counted: the library is to make no further ones.
        self.client = client_of(server).with_options(max_retries=0)
        self.before = 0 if account.answered else account.asked
        self.why: list[str] = []

    def __call__(self, conversation: Sequence[Message]) -> Answer | None:
        told = [message for message in conversation if message["role"] != "tools"]
        room = sum(len(message["content"].encode()) + AROUND for message in told) + self.max_tokens
        for tried in range(self.server.retries + 1):
            self.refuse_silence(self.before + len(self.why))
            if tried:
                time.sleep(min(LONGEST_PAUSE, 2.0 ** (tried - 2)))
            self.reserve(room)
            try:
                answer = asked(self.client, self.server, told, self.max_tokens, self.temperature)
            except Exception as error:
                if refused(error):
                    raise UserError(f"server {self.server.url} refuses: {said(error)}") from error
                if getattr(error, "status_code", None) == BUSY:  # it was asked too often, and did nothing
                    self.account.settle(room, 0, False)
                else:
                    self.why.append(said(error))
                continue
            self.account.settle(
                room, room if answer.tokens is None else answer.tokens, answer.text is not None
            )
            return answer
        return None

    def reserve(self, room: int) -> None:
        """Set a request's room aside. UserError where the budget has none."""
        server = self.server
        if not self.account.reserve(room, server.budget):
            raise UserError(
                f"server {server.url}: the budget of {server.budget} tokens has no room for a request of up to {room} "
                f"({self.account.spent} are spent or asked for): raise it, and go on with --resume where a step is "
                "saved"
            )

    def refuse_silence(self, count: int) -> None:
        """UserError for a server that has answered none of its first requests, ``count`` so far."""
        require(
            self.account.answered > 0 or count < ALIVE,
            f"server {self.server.url} has answered none of {count} requests: "
            f"{self.why[-1] if self.why else 'no text'}",
        )


def names_model(server: ChatServer) -> str:
    """What a server says of its models, in a sentence; it costs no tokens. UserError where it does not answer, or has
    another model."""
    import openai

    try:
        found = [one.id for one in client_of(server).models.list()]
    except Exception as error:
        if isinstance(error, openai.APIStatusError) and error.status_code not in (401, 403):
            return f"{server.url} is there, but lists no models: whether it has {server.model!r} is not known"
        raise UserError(f"server {server.url} does not answer: {said(error)}") from error
    known = ", ".join(map(repr, found[:5])) or "none"
    require(server.model in found, f"server {server.url} has no model {server.model!r}: it has {known}")
    return f"{server.url} has the model {server.model!r}"


def client_of(server: ChatServer) -> Any:
    import openai

    key = os.environ.get("OPENAI_API_KEY") or "none"  # servers of one's own ask for none
    return openai.OpenAI(
        base_url=server.url, api_key=key, timeout=server.seconds, max_retries=server.retries,
        # Each request has its connection, whose end is its own affair.
        default_headers={"Connection": "close"},
        http_client=openai.DefaultHttpxClient(event_hooks={"request": [partial(limited, server.seconds)]}),
    )  # fmt: skip


def asked(
    client: Any, server: ChatServer, messages: Sequence[Message], max_tokens: int, temperature: float
) -> Answer:
    """What it answers. Raises whatever the library raises, and ValueError for what is no JSON, or too long."""
    create = client.chat.completions.with_streaming_response.create
    with create(
        model=server.model, messages=messages, max_tokens=max_tokens, temperature=temperature
    ) as response:
        return read(bounded(response, LARGEST))


def bounded(response: Any, most: int) -> Any:
    """The JSON of a response. ValueError for one of more bytes."""
    held = bytearray()
    for part in response.iter_bytes():
        held += part
        if len(held) > most:
            raise ValueError(f"an answer of more than {most >> 20} MiB")
    return json.loads(held)


def read(told: Any) -> Answer:
    """The answer in what a server said, whatever that is."""
    found = told if isinstance(told, dict) else {}
    choices = found.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    usage = found.get("usage")
    used = usage.get("total_tokens") if isinstance(usage, dict) else None
    counted = used if isinstance(used, int) and not isinstance(used, bool) and used >= 0 else None
    cut = isinstance(first, dict) and first.get("finish_reason") == "length"
    return Answer(plain(text) if isinstance(text, str) else None, counted, cut)


def plain(text: str) -> str:
    """Without halves of surrogate pairs, which are no text."""
    return text.encode("utf-8", "replace").decode()


def refused(error: Exception) -> bool:
    """Whether asking again would change nothing: a key, a name, a request that is not understood."""
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 429)


def said(error: Exception) -> str:
    return shortened(" ".join(with_type(error).split()), SAID)
