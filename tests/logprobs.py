"""What vLLM's server says of prompts' log-probs, in a thread of the tests, well or badly (``chat_server.serving``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from selfteach.policy.loading import load_policy

Spoil = Callable[[dict[str, Any], int], Any]
"""(a right answer, the number of the request) → what is answered."""


def vllm(model: str, spoil: Spoil | None = None, most: int = 64) -> Callable[[dict[str, Any]], Any]:
    """What vLLM's server says of prompts' log-probs, with a model's own."""
    policy, count = load_policy(model), iter(range(10**6))

    @torch.no_grad()
    def answer(request: dict[str, Any]) -> Any:
        if "add_special_tokens" in request:
            ids = policy.tokenizer.encode(request["prompt"], add_special_tokens=False)
            return 200, json.dumps({"tokens": ids}).encode()
        ids, k = request["prompt"], request["prompt_logprobs"]
        if k > most:
            said = f"Requested prompt logprobs of {k}, which is greater than max allowed: {most}"
            return 400, json.dumps({"error": {"message": said}}).encode()
        logits = policy.model(torch.tensor([ids])).logits[0, :-1, : policy.vocabulary].double()
        entries: list[Any] = [None]
        for own, row in zip(ids[1:], logits.log_softmax(-1), strict=True):
            top = row.topk(k).indices.tolist()
            entries.append(
                {str(t): {"logprob": float(row[t]), "rank": 1} for t in dict.fromkeys([own, *top])}
            )
        told = {"model": request["model"], "choices": [{"text": "x", "prompt_logprobs": entries}]}
        found = told if spoil is None else spoil(told, next(count))
        return found if found is None or isinstance(found, tuple) else (200, json.dumps(found).encode())

    return answer
