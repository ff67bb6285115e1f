"""A server that speaks as vLLM does to a run, well or badly, in a thread of the tests: a model of its own behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, load_policy
from selfteach.policy.sampler import LocalSampler
from selfteach.policy.vllm_sampler import log_probs_of

Told = tuple[int, Any]
BROKEN = -1, None
"""In the place of an answer: the connection is cut."""


@dataclass
class Vllm:
    """What the server is: ``calls`` so far by path, the ``version`` of its weights. To make it behave badly, override
    a method."""

    folder: str
    mode: str = "processed_logprobs"
    device: str = "cuda"
    untied: bool = False
    calls: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """Its weights as the folder has them."""
        self.policy: Policy = load_policy(self.folder)
        self.version = "default"

    def before(self, path: str) -> None:
        """Done first, side by side with other requests."""

    def answer(self, path: str, body: dict[str, Any]) -> Told:
        self.before(path)
        with self.lock:
            self.calls.append(path)
            self.bodies.append(body)
            name = path.strip("/").partition("?")[0].replace("/", "_").replace("v1_", "")
            found: Told = getattr(self, name)(body)
        return found

    # --- what it is asked -----------------------------------------------------------------------------------------

    def health(self, body: dict[str, Any]) -> Told:
        return 200, None

    def models(self, body: dict[str, Any]) -> Told:
        return 200, {"data": [{"id": self.folder, "max_model_len": self.policy.window}]}

    def server_info(self, body: dict[str, Any]) -> Told:
        model: dict[str, Any] = {"dtype": "torch.float32", "logprobs_mode": self.mode, "hf_overrides": {}}
        if self.untied:
            model["hf_overrides"] = {"tie_word_embeddings": False}
        device = {"device_type": self.device}
        return 200, {"vllm_config": {"model_config": model, "device_config": device}}

    def tokenize(self, body: dict[str, Any]) -> Told:
        ids = self.policy.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])
        return 200, {"tokens": list(ids["input_ids"])}

    def completions(self, body: dict[str, Any]) -> Told:
        if "prompt_logprobs" in body:
            return self.scored(body["prompt"])
        sampling = Sampling(body["max_tokens"], body["temperature"], body["top_p"], body["top_k"])
        (one,) = LocalSampler(self.policy).sample([body["prompt"]], sampling, keys=[str(body["seed"])])
        return self.completion(one.ids, one.behavior)

    def completion(self, ids: list[int], log_probs: list[float]) -> Told:
        choice = {"token_ids": ids, "logprobs": {"token_logprobs": log_probs}, "finish_reason": "stop"}
        return 200, {"choices": [choice]}

    def scored(self, ids: list[int]) -> Told:
        if max(ids) >= self.policy.vocabulary:
            return 400, {"error": {"message": "out of vocabulary"}}
        (values,) = log_probs_of(self.policy, [ids[:1]], [ids[1:]])
        rows = [None, *({str(token): {"logprob": v}} for token, v in zip(ids[1:], values, strict=True))]
        return 200, {"choices": [{"prompt_logprobs": rows}]}

    def collective_rpc(self, body: dict[str, Any]) -> Told:
        assert body["method"] == "reload_weights"
        weights = load_file(Path(body["kwargs"]["weights_path"]) / "model.safetensors")
        try:
            with torch.no_grad():
                _, unexpected = self.policy.model.load_state_dict(weights, strict=False)
        except RuntimeError:
            return 500, {"error": {"message": "shapes differ"}}
        assert not unexpected
        return 200, {"results": [None]}

    def reset_prefix_cache(self, body: dict[str, Any]) -> Told:
        return 200, {"success": True}

    def pause(self, body: dict[str, Any]) -> Told:
        return 200, {"status": "paused"}

    def resume(self, body: dict[str, Any]) -> Told:
        return 200, {"status": "resumed"}

    def update_weight_version(self, body: dict[str, Any]) -> Told:
        self.version = body["new_version"]
        return 200, {"success": True}

    def weight_info(self, body: dict[str, Any]) -> Told:
        return 200, {"weight_version": self.version}


@contextmanager
def serving(vllm: Vllm) -> Iterator[str]:
    """The address of the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(*vllm.answer(self.path, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*vllm.answer(self.path, body))

        def reply(self, status: int, told: Any) -> None:
            if (status, told) == BROKEN:
                self.close_connection = True
                return
            held = told if isinstance(told, bytes) else b"" if told is None else json.dumps(told).encode()
            with suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(held)))
                self.end_headers()
                self.wfile.write(held)

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
