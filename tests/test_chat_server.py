"""Texts from a server: what is asked, what is believed, what a budget allows, and how failures end."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from chat_server import completion, serving
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.policy.chat_server import Account, ChatServer, answers, names_model
from selfteach.recipes.summarizer import Summarizer

pytest.importorskip("openai")


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ask(url: str, texts: list[str], account: Account | None = None, **more: object) -> list[str | None]:
    server = ChatServer(url, "writer", retries=0, **more)
    return answers(server, [user(text) for text in texts], account or Account(), max_tokens=8)


def test_each_conversation_is_answered_in_its_place(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    account = Account()
    with serving(lambda request: completion(request["messages"][0]["content"].upper())) as (url, requests):
        assert ask(url, [f"t{i}" for i in range(20)], account) == [f"T{i}" for i in range(20)]
    assert {(one["model"], one["max_tokens"], one["temperature"]) for one in requests} == {("writer", 8, 1.0)}
    assert {one["key"] for one in requests} == {"Bearer secret"}
    assert (account.spent, account.asked, account.answered) == (140, 20, 20)


def test_tools_are_not_announced_to_a_server() -> None:
    with serving(lambda request: completion(str(len(request["messages"])))) as (url, _):
        told = [{"role": "tools", "content": "[]"}, *user("hello")]
        assert answers(ChatServer(url, "writer"), [told], Account(), max_tokens=8) == ["1"]


@pytest.mark.parametrize(
    "said",
    [(200, b""), (200, b"{"), (200, b"[]"), (200, b"3"), (200, b"{}"), (200, b'{"choices": []}'), (200, b"[" * 10**5),
     (200, b'{"choices": [{"message": {"content": null}}]}'), (200, b'{"choices": [3]}'), (200, b"\xff"),
     (500, b"no"), (503, b"{}"), (200, b'{"choices": [{"message": {"content": "' + b"x" * (5 << 20) + b'"}}]}')],
    ids=lambda one: f"{one[0]} {one[1][:24]!r}",
)  # fmt: skip
def test_what_is_no_answer_is_none(said: tuple[int, bytes]) -> None:
    with serving(lambda request: said) as (url, _):
        assert ask(url, ["a", "b"]) == [None, None]


def test_a_part_that_fails_is_dropped_and_the_rest_is_kept() -> None:
    def answer(request: dict) -> tuple[int, bytes]:
        bad = request["messages"][0]["content"] == "bad"
        return (500, b"no") if bad else completion("fine")

    with serving(answer) as (url, _):
        assert ask(url, ["good", "bad", "good"]) == ["fine", None, "fine"]


def test_a_server_that_recovers_is_asked_again() -> None:
    failing = iter([True, True])

    def answer(request: dict) -> tuple[int, bytes]:
        return (500, b"no") if next(failing, False) else completion("fine")

    with serving(answer) as (url, requests):
        server = ChatServer(url, "writer", retries=2)
        assert answers(server, [user("a")], Account(), max_tokens=8) == ["fine"]
    assert len(requests) == 3


def test_a_server_that_is_slow_or_gone_gives_nothing() -> None:
    with serving(lambda request: None) as (url, _):
        assert ask(url, ["a"], seconds=0.3) == [None]
    assert ask("http://127.0.0.1:9/v1", ["a"]) == [None]


def test_one_that_never_answers_ends_the_run() -> None:
    account = Account()
    for _ in range(3):
        assert ask("http://127.0.0.1:9/v1", ["a"] * 5, account) == [None] * 5
    with pytest.raises(UserError, match=r"has answered none of (16|17|18|19|20) requests: "):
        ask("http://127.0.0.1:9/v1", ["a"] * 5, account)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refusal_ends_the_run_at_once(status: int) -> None:
    body = b'{"error": {"message": "no such model"}}'
    with (
        serving(lambda request: (status, body)) as (url, _),
        pytest.raises(UserError, match="refuses") as error,
    ):
        ask(url, ["a"])
    assert "\n" not in str(error.value)


def test_a_budget_is_never_exceeded() -> None:
    """Not by requests side by side, whatever the server counts: each has its room before it is sent."""
    lock, sent = threading.Lock(), [0]

    def answer(request: dict) -> tuple[int, bytes]:
        with lock:
            sent[0] += 25
        return completion("fine", 25)

    account = Account()
    with serving(answer) as (url, _):
        with pytest.raises(
            UserError, match=r"budget of 200 tokens has no room for a request of up to 25 \(\d+ are spent"
        ):
            ask(url, ["x"] * 40, account, budget=200)
        assert sent[0] <= 200
        assert account.spent <= 200
        assert account.asked == sent[0] // 25
    with serving(lambda request: completion("fine", None)) as (
        url,
        _,
    ):  # who does not say counts as all of it
        unknown = Account()
        ask(url, ["x"] * 4, unknown, budget=200)
    assert unknown.spent == 100


def test_what_a_server_counts_frees_what_was_set_aside() -> None:
    account = Account()
    with serving(lambda request: completion("fine", 2)) as (url, _):
        for _ in range(20):
            assert ask(url, ["x"], account, budget=64) == ["fine"]
    assert account.spent == 40


def test_half_a_surrogate_pair_is_no_text() -> None:
    with serving(lambda request: (200, b'{"choices": [{"message": {"content": "a\\ud800b"}}]}')) as (url, _):
        assert ask(url, ["a"]) == ["a?b"]


def test_preflight_asks_for_the_model() -> None:
    with serving(lambda request: completion("x")) as (url, requests):
        assert names_model(ChatServer(url, "writer")) == f"{url} has the model 'writer'"
        with pytest.raises(UserError, match="has no model 'other': it has 'writer'"):
            names_model(ChatServer(url, "other"))
        assert not requests
    for status, said in ((404, "lists no models"), (500, "lists no models"), (401, None)):
        with serving(lambda request: completion("x"), listing=status) as (url, _):
            server = ChatServer(url, "writer", retries=0)
            if said:
                assert said in names_model(server)
            else:
                with pytest.raises(UserError, match="does not answer"):
                    names_model(server)
    with pytest.raises(UserError, match="does not answer"):
        names_model(ChatServer("http://127.0.0.1:9/v1", "writer", retries=0))


@pytest.mark.parametrize(
    ("url", "said"),
    [("localhost:8000", "is no address"), ("", "is no address"), ("file:///etc/passwd", "is no address"),
     ("http://", "is no address"), ("https://me:secret@host/v1", "OPENAI_API_KEY")],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        ChatServer(url, "writer")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def trained(out: Path, url: str, *more: str) -> int:
    words = (
        "train skill-sd --task tutor --steps 1 --prompts 2 --per-prompt 2 --max-tokens 40 --eval-problems 0"
    )
    words += " --summarizer server"
    return main(
        [*words.split(), "--summarizer-model", "writer", "--summarizer-url", url, "--out", str(out), *more]
    )


def test_a_run_asks_a_server_for_its_summaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda request: completion("Add the ones first.", 40)) as (url, requests):
        assert trained(tmp_path / "run", url) == 0
        assert all("--- an attempt ---" in one["messages"][-1]["content"] for one in requests)
    (served,) = (tmp_path / "run" / "stored").glob("served-*")
    (account,) = json.loads(served.read_text().splitlines()[0]).values()
    # Those of preflight are among them.
    assert account == {"spent": 40 * len(requests), "asked": len(requests), "answered": len(requests)}
    (skills,) = (tmp_path / "run" / "stored").glob("skills-*")
    assert "Add the ones first." in skills.read_text()


def test_a_run_stops_at_its_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda request: completion("Add the ones first.", None)) as (url, requests):
        assert trained(tmp_path / "run", url, "--summarizer-budget", "1000") == 2
        assert sum(one["max_tokens"] for one in requests) <= 1000
        assert "the budget of 1000 tokens has no room" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("knobs", "said"),
    [({"summarizer": "server", "summarizer_model": "x"}, "needs --summarizer-url, such as"),
     ({"summarizer": "server", "summarizer_url": "http://x"}, "and --summarizer-model"),
     ({"summarizer_url": "http://x"}, "summarizer-url go together"),
     ({"summarizer_budget": 5}, "summarizer_budget is of summarizer server"),
     ({"summarizer": "server", "summarizer_model": "x", "summarizer_url": "x"}, "is no address")],
)  # fmt: skip
def test_a_server_is_named_whole(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Summarizer(**knobs)
