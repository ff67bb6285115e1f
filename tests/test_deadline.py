"""Servers that drip: an answer that is right but comes byte by byte counts as none once the request's time is over."""

from __future__ import annotations

import socket
import threading
from typing import Any, get_args

import pytest

from dripping import LIMIT, Part, dripping
from selfteach.errors import UserError
from selfteach.objective.listed import Listed
from selfteach.policy.chat_server import Account, ChatServer, answers, names_model
from selfteach.policy.deadline import Deadline
from selfteach.policy.draws import Sampling
from selfteach.policy.logprob_server import ids_of, listed_by
from selfteach.policy.vllm_sampler import Request
from selfteach.policy.vllm_server import Away, Refused, VllmServer

PARTS = get_args(Part)
AMPLE = 60.0


def nowhere(path: str) -> bool:
    return False


def everywhere(path: str) -> bool:
    return True


# --- OpenAI's API -----------------------------------------------------------------------------------------------------


def chat(path: str) -> Any:
    listed = {"1": {"logprob": -0.5}, "2": {"logprob": -1.5}}
    choice = {"message": {"content": "fine"}, "prompt_logprobs": [None, listed]}
    return {"choices": [choice], "data": [{"id": "writer"}], "object": "list", "tokens": [1]}


def asked(url: str, seconds: float) -> list[object]:
    """What three kinds of requests give."""
    server = ChatServer(f"{url}/v1", "writer", seconds=seconds, retries=0)
    (text,) = answers(server, [[{"role": "user", "content": "hello"}]], Account(), max_tokens=8)
    (scores,) = listed_by(server, [([2, 1], [1])], 2, 9)
    return [text, scores, ids_of(server, "a")]


@pytest.mark.parametrize("part", PARTS)
def test_a_chat_server_that_drips_gives_no_answer(part: Part) -> None:
    pytest.importorskip("openai")
    with dripping(chat, everywhere, part) as url:
        text, scores, ids = asked(url, LIMIT)
        with (
            pytest.raises(UserError, match="does not answer")
            if part != "refusal"
            else pytest.raises(UserError)
        ):
            names_model(ChatServer(f"{url}/v1", "writer", seconds=LIMIT, retries=0))
    assert text is None
    assert isinstance(scores, str)
    assert ids is None
    if part != "refusal":
        assert scores == f"TimeoutError: timed out: no whole answer within {LIMIT:g} s"


def test_the_same_answers_at_once_are_answers() -> None:
    pytest.importorskip("openai")
    with dripping(chat, nowhere, "body") as url:
        text, scores, ids = asked(url, AMPLE)
    assert text == "fine"
    assert isinstance(scores, Listed)
    assert ids == [1]


def test_every_request_has_its_own_time() -> None:
    """Not what is left of the one before, nor a connection that an earlier one's end could close."""
    pytest.importorskip("openai")
    with dripping(chat, nowhere, "body") as url:
        server = ChatServer(f"{url}/v1", "writer", retries=0)
        talks = [[{"role": "user", "content": str(i)}] for i in range(20)]
        assert answers(server, talks, Account(), max_tokens=8) == ["fine"] * 20
    assert not [one for one in threading.enumerate() if isinstance(one, threading.Timer)]


# --- vLLM's API -------------------------------------------------------------------------------------------------------


def vllm(path: str) -> Any:
    model = {"dtype": "torch.float32", "logprobs_mode": "processed_logprobs", "hf_overrides": {}}
    choice = {"token_ids": [1], "logprobs": {"token_logprobs": [-0.5]}, "finish_reason": "stop"}
    return {
        "data": [{"id": "m", "max_model_len": 64}],
        "vllm_config": {"model_config": model, "device_config": {}},
        "choices": [choice],
    }


REQUEST = Request([1, 2], Sampling(max_tokens=1), 0, (), ())


@pytest.mark.parametrize("part", PARTS)
def test_a_vllm_server_that_drips_is_away(part: Part) -> None:
    with dripping(vllm, lambda path: path.endswith("completions"), part) as url:
        server = VllmServer(url, LIMIT)
        assert server.complete([REQUEST]) == [None]
        with pytest.raises(Away, match="no whole answer within"):
            server.post("/v1/completions", {})
    with dripping(vllm, everywhere, part) as url, pytest.raises(UserError, match="has not answered for"):
        VllmServer(url, LIMIT)


def test_the_same_server_at_once_is_there() -> None:
    with dripping(vllm, nowhere, "body") as url:
        server = VllmServer(url, AMPLE)
        (found,) = server.complete([REQUEST])
    assert found is not None
    assert found.ids == [1]
    assert not [one for one in threading.enumerate() if isinstance(one, threading.Timer)]


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", Away),
        (b"HTTP/1.1 503 No\r\nContent-Length: 50\r\n\r\nhalf", Away),
        (b"HTTP/1.1 404 No\r\nContent-Length: 4\r\n\r\nnone", Refused),
        (b"", Away),
    ],
)
def test_an_answer_that_breaks_off_is_none(said: bytes, raised: type[Exception]) -> None:
    """Half a JSON text was taken for the answer of another program, which ended the run."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        connection.recv(65536)
        connection.sendall(said)
        connection.close()

    with dripping(vllm, nowhere, "body") as url:
        server = VllmServer(url, AMPLE)
    server.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with pytest.raises(raised):
        server.post("/v1/completions", {})
    thread.join()
    listening.close()


# --- the limit itself -------------------------------------------------------------------------------------------------


def test_a_deadline_wakes_who_reads_and_leaves_what_is_done() -> None:
    ours, theirs = socket.socketpair()
    late = Deadline(0.05)
    late.watch(ours)
    assert ours.recv(1) == b""  # nothing was sent, and the other side is open
    assert late.passed
    done = Deadline(AMPLE)
    one, other = socket.socketpair()
    done.watch(one)
    done.close()
    other.sendall(b"x")
    assert one.recv(1) == b"x"
    assert not done.passed
    late.end(ours)  # of what is closed by now: nothing
    for each in (ours, theirs, one, other):
        each.close()
    late.end(ours)
