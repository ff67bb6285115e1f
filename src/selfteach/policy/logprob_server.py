"""Log-probs of given tokens from vLLM's OpenAI-compatible server: a model's likeliest tokens at every written position.

``POST /v1/completions`` with the ids as ``prompt`` and ``prompt_logprobs`` = k. What comes back is not trusted: an
answer that is not what was asked for is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.objective.listed import Listed
from selfteach.policy.chat_server import AT_ONCE, ChatServer, bounded, client_of, refused, said
from selfteach.wording import shortened

BYTES = 256
"""Of one log-prob in an answer, at most."""
BESIDE = 1 << 20
"""Bytes of an answer beside its log-probs, at most."""
EXCESS = 1e-3
"""By so much listed probabilities may add up to more than 1."""
LEAST_TAIL = 1e-6
"""A server's float32 log-probs do not resolve less mass than this beside the listed tokens."""
BAD_REQUEST = 400
OFTEN = (401, 403, 404)
"""What a server says that will refuse every other request too: a key, a model's name."""


def listed_by(
    server: ChatServer, prompts: Sequence[tuple[list[int], list[int]]], k: int, vocabulary: int
) -> list[Listed | str]:
    """Of each prompt (its ids, the places [P] in it that are asked for) the k likeliest tokens there, temperature 1,
    and the token that stands there; or, in words, why there are none.

    Requests are made side by side, with the server's timeout and retries. UserError where the server refuses all of
    them (a key, a name), or answers for another model.
    """
    client = client_of(server)

    def one(asked: tuple[list[int], list[int]]) -> Listed | str:
        ids, places = asked
        try:
            return read(requested(client, server, ids, k), server, ids, places, k, vocabulary)
        except UserError:
            raise
        except Exception as error:
            if refused(error) and getattr(error, "status_code", None) in OFTEN:
                raise UserError(f"server {server.url} refuses: {said(error)}") from error
            return said(error)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="logprob-server") as pool:
        return list(pool.map(one, prompts))


def requested(client: Any, server: ChatServer, ids: Sequence[int], k: int) -> Any:
    """What the server says of the ids' log-probs, whatever that is. It must write a token, which is thrown away; at
    temperature 1, for some servers divide by it before they answer."""
    create, most = client.completions.with_streaming_response.create, len(ids) * (k + 1) * BYTES + BESIDE
    with create(
        model=server.model, prompt=list(ids), max_tokens=1, temperature=1, extra_body={"prompt_logprobs": k}
    ) as response:
        return bounded(response, most)


def read(
    answer: Any, server: ChatServer, ids: Sequence[int], places: Sequence[int], k: int, vocabulary: int
) -> Listed:
    """The log-probs in an answer. ValueError where it is none; UserError where another model answers."""
    found = answer if isinstance(answer, dict) else {}
    model = found.get("model", server.model)
    require(
        model == server.model,
        f"server {server.url} answers for the model {shortened(repr(model), 80)}, not {server.model!r}",
    )
    choices = found.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    listed = first.get("prompt_logprobs") if isinstance(first, dict) else None
    if not isinstance(listed, list):
        raise ValueError("an answer without prompt_logprobs (is it a vLLM server?)")
    if len(listed) != len(ids):
        raise ValueError(f"log-probs of {len(listed)} tokens for {len(ids)} ids")
    rows = [position(listed[place], ids[place], k, vocabulary) for place in places]
    return Listed.of(
        torch.tensor([one[0] for one in rows], dtype=torch.float64).reshape(-1, min(k, vocabulary)),
        torch.tensor([one[1] for one in rows], dtype=torch.long).reshape(-1, min(k, vocabulary)),
        torch.tensor([one[2] for one in rows], dtype=torch.float64),
        torch.tensor([one[3] for one in rows], dtype=torch.float64),
        vocabulary,
    )


def position(entries: Any, own: int, k: int, vocabulary: int) -> tuple[list[float], list[int], float, float]:
    """(log-probs and ids of the listed tokens, log of the tail, log-prob of the token that stands there). ValueError
    where the server says fewer than were asked for, or no probabilities."""
    if not isinstance(entries, Mapping):
        raise ValueError("no log-probs at a position")
    found = {int(token): log_prob_of(one) for token, one in entries.items()}
    if beyond := [token for token in found if not 0 <= token < vocabulary]:
        raise ValueError(f"ids must lie in [0, {vocabulary}), got {beyond[0]}")
    if own not in found:
        raise ValueError("no log-prob of the token that stands there")
    wanted = min(k, vocabulary)
    if not wanted <= len(found) <= wanted + 1:
        raise ValueError(f"{len(found)} log-probs at a position, where {wanted} were asked for")
    # One more than was asked for: the token that stands there is none of the likeliest.
    listed = {token: one for token, one in found.items() if len(found) == wanted or token != own}
    tail = 1 - math.fsum(map(math.exp, listed.values()))
    if tail < -EXCESS:
        raise ValueError(f"listed probabilities add up to {1 - tail:.4f}")
    if not math.isfinite(found[own]):
        raise ValueError(f"a log-prob of {found[own]} of the token that stands there")
    if own not in listed:
        if found[own] > min(listed.values()) + EXCESS:
            raise ValueError(
                "a token that stands there, likelier than those that are listed as the likeliest"
            )
        tail = max(tail, math.exp(found[own]))
    if wanted == vocabulary and tail > EXCESS:
        raise ValueError(f"probabilities of all tokens that add up to {1 - tail:.4f}")
    log_tail = -math.inf if wanted == vocabulary else math.log(max(tail, LEAST_TAIL))
    return list(listed.values()), list(listed), log_tail, found[own]


def log_prob_of(entry: Any) -> float:
    value = entry.get("logprob") if isinstance(entry, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(f"a log-prob that is {shortened(repr(value), 40)}")
    return float(value)


def ids_of(server: ChatServer, text: str) -> list[int] | None:
    """How the server's tokenizer reads a text (vLLM's ``/tokenize``); None where it does not say."""
    root = server.url.rstrip("/").removesuffix("/v1")
    try:
        client = client_of(server).with_options(base_url=root, max_retries=0)
        found = client.post(
            "/tokenize",
            body={"model": server.model, "prompt": text, "add_special_tokens": False},
            cast_to=object,
        )
    except Exception:  # another server has no such address; whether it answers at all is asked elsewhere
        return None
    ids = found.get("tokens") if isinstance(found, dict) else None
    return ids if isinstance(ids, list) and all(isinstance(one, int) for one in ids) else None


def model_named(server_url: str, asked: str | None) -> str:
    """The model that is asked for, or the only one that the server has. UserError where it has none, or several."""
    if asked is not None:
        return asked
    probe = ChatServer(server_url, "any", seconds=30)
    try:
        found = [one.id for one in client_of(probe).models.list()]
    except Exception as error:
        raise UserError(f"server {server_url} does not answer: {said(error)}") from error
    require(
        len(found) == 1,
        f"server {server_url} has {len(found)} models ({shortened(', '.join(found), 200)}): name one with "
        "--teacher-model",
    )
    return str(found[0])
