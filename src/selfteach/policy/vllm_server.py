"""A vLLM server as the engine: completions by token ids, and the server's own calls to load weights.

It must be started with VLLM_SERVER_DEV_MODE=1 (it then loads weights), belong to the run alone, and see this machine's
temporary folder, through which weights go.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from jaxtyping import Shaped
from torch import Tensor

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.policy.checkpoint_weights import write_weights
from selfteach.policy.deadline import Deadline, opened
from selfteach.policy.sampler import Watch
from selfteach.policy.vllm_sampler import OUTSIDE, Completion, Request
from selfteach.wording import shortened

AT_ONCE = 128
"""Requests that are under way together; the server queues what it has no room for."""
SECONDS_A_TOKEN = 0.05
"""A server that writes more slowly is taken to be away."""
LARGEST = 64 << 20
"""Bytes of one answer."""
SAID = 2000
"""Bytes of a refusal that are read."""
PAUSE = 0.5
"""Seconds between looks whether a server is there again."""
LOOK = 30.0
"""Seconds that it may take to say something of itself."""
AGAIN = (408, 409, 429, 500, 502, 503, 504)
"""Statuses after which asking again may help."""
DEV_MODE = "start it with VLLM_SERVER_DEV_MODE=1 (docs/vllm.md), as one that loads weights"


class Away(Exception):
    """The server does not answer, or not now."""


class Refused(UserError):
    """The server says that it will not."""


@dataclass
class VllmServer:
    """The server at ``url`` (``http://localhost:8000``), asked what it serves. ``seconds``: how long it may be away, or
    leave one request unanswered. UserError for an address that is none, or a server that is not there, loads no
    weights, or notes other log-probs than are wanted."""

    url: str
    seconds: float
    window: int = field(init=False)
    untied: bool = field(init=False)
    dtype: str = field(init=False)
    on_cpu: bool = field(init=False)
    model: str = field(init=False)
    tries: int = 3

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        require(
            parts.scheme in ("http", "https") and bool(parts.hostname),
            f"vllm_server_base_url {shortened(self.url, 80)!r} is no address: give one such as http://localhost:8000",
        )
        require(
            parts.username is None and parts.password is None,
            "vllm_server_base_url holds a name or password: put the server where it needs none",
        )
        self.url = self.url.rstrip("/").removesuffix("/v1")
        self.wait()
        served = self.listed()
        self.model, self.window = served
        about, device = self.about()
        self.on_cpu = "cpu" in (device.get("device_type"), device.get("device"))
        self.dtype = str(about.get("dtype"))
        overrides = about.get("hf_overrides")
        self.untied = isinstance(overrides, dict) and overrides.get("tie_word_embeddings") is False
        mode = about.get("logprobs_mode")
        require(
            mode == "processed_logprobs",
            f"{self.name} notes {mode}: start it with --logprobs-mode processed_logprobs, for log-probs at the "
            "sampling temperature",
        )

    @property
    def name(self) -> str:
        return f"the vLLM server {self.url}"

    # --- the engine -----------------------------------------------------------------------------------------------

    def complete(self, requests: Sequence[Request], watch: Watch | None = None) -> list[Completion | None]:
        """Side by side; None where no answer came."""
        done, lock = 0, Lock()

        def one(request: Request) -> Completion | None:
            nonlocal done
            try:
                longer = SECONDS_A_TOKEN * request.sampling.max_tokens
                told = self.post("/v1/completions", self.body(request), longer)
            except Away:
                return None
            found = completion_of(told, self.name)
            with lock:
                done += 1
                if watch is not None:
                    watch(done / len(requests))
            return found

        with ThreadPoolExecutor(min(AT_ONCE, max(1, len(requests))), thread_name_prefix="vllm") as pool:
            return list(pool.map(one, requests))

    def body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        return {
            "model": self.model,
            "prompt": request.ids,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            # What a server may have other defaults of, from the model's folder:
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": request.seed,
            "ignore_eos": True,  # which tokens stop is the renderer's word
            "stop_token_ids": list(request.stop_ids),
            "logit_bias": {str(one): OUTSIDE for one in request.outside} or None,
            "logprobs": 0,
            "return_token_ids": True,
        }

    def score(self, ids: list[int]) -> list[float]:
        asked = {
            "model": self.model,
            "prompt": ids,
            "max_tokens": 1,
            "prompt_logprobs": 0,
            "temperature": 1.0,
        }
        told = self.patiently("/v1/completions", asked)
        found = choice_of(told).get("prompt_logprobs")
        rows = found[1:] if isinstance(found, list) else []
        values = [
            row.get(str(token), {}).get("logprob") if isinstance(row, dict) else None
            for token, row in zip(ids[1:], rows, strict=False)
        ]
        if len(values) != len(ids) - 1 or not all(isinstance(one, float | int) for one in values):
            raise UserError(f"{self.name} does not say how likely it takes a prompt to be: is it vLLM?")
        return [float(one) for one in values if one is not None]

    def load(self, weights: Mapping[str, Shaped[Tensor, "..."]], version: str) -> None:
        with TemporaryDirectory(prefix="selfteach-weights-") as folder:
            write_weights(weights, folder)
            Path(folder).chmod(0o755)  # the server may be another user
            for _ in range(self.tries):
                try:
                    self.loaded(folder, version)
                    return
                except Away:
                    self.wait()
        raise UserError(
            f"{self.name} was gone {self.tries} times while weights were pushed: look at its log, then go on "
            "with --resume"
        )

    def loaded(self, folder: str, version: str) -> None:
        self.post("/pause?mode=abort", {})
        try:
            try:
                self.post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
            except Refused as problem:
                raise UserError(
                    f"{self.name} cannot take the trained weights: it must serve this model, {self.model!r} does not "
                    f"look like it, and see the folder {folder} ({problem})"
                ) from problem
            told = self.post("/reset_prefix_cache", {})
            if not (isinstance(told, dict) and told.get("success")):
                raise Away("it still holds what it kept of prompts")
        finally:
            with suppress(Away, Refused):  # of what went wrong before is told
                self.post("/resume", {})
        self.post("/update_weight_version", {"new_version": version})

    def holds(self, version: str) -> bool:
        try:
            told = self.get("/weight_info")
        except Away:
            return False
        return isinstance(told, dict) and told.get("weight_version") == version

    def wait(self) -> None:
        until, why = time.monotonic() + self.seconds, ""
        while True:
            try:
                self.get("/health", reading=False)
                return
            except Away as problem:
                why = str(problem)
            if time.monotonic() > until:
                raise UserError(
                    f"{self.name} has not answered for {self.seconds:g} s ({why}): start it (docs/vllm.md), or raise "
                    "vllm_server_timeout"
                )
            time.sleep(PAUSE)

    # --- what it says of itself -----------------------------------------------------------------------------------

    def listed(self) -> tuple[str, int]:
        """(its model's name, tokens that it reads at most)."""
        told = self.patiently("/v1/models")
        models = told.get("data") if isinstance(told, dict) else None
        first = models[0] if isinstance(models, list) and models and isinstance(models[0], dict) else {}
        name, window = first.get("id"), first.get("max_model_len")
        if not (isinstance(name, str) and isinstance(window, int)):
            raise UserError(f"{self.name} lists no model as vLLM does: is it one?")
        return name, window

    def about(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Its settings: of the model, and of the device."""
        try:
            told = self.patiently("/server_info?config_format=json")
        except Refused as problem:
            raise UserError(f"{self.name} says nothing of its settings: {DEV_MODE}") from problem
        config = told.get("vllm_config") if isinstance(told, dict) else None
        model = config.get("model_config") if isinstance(config, dict) else None
        if not isinstance(model, dict):
            raise UserError(f"{self.name} says nothing of its settings: {DEV_MODE}")
        device = config.get("device_config") if isinstance(config, dict) else None
        return model, device if isinstance(device, dict) else {}

    def ids_of(self, text: str) -> list[int] | None:
        """The text as its tokenizer has it; None: it has none, or does not say."""
        try:
            told = self.patiently(
                "/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": False}
            )
        except Refused:
            return None
        found = told.get("tokens") if isinstance(told, dict) else None
        return found if isinstance(found, list) else None

    # --- requests -------------------------------------------------------------------------------------------------

    def patiently(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What it says, asked again where it is away."""
        for _ in range(self.tries):
            try:
                return self.get(path) if body is None else self.post(path, body)
            except Away:
                self.wait()
        raise UserError(
            f"{self.name} left {path.partition('?')[0]} unanswered {self.tries} times: look at its log"
        )

    def get(self, path: str, *, reading: bool = True) -> Any:
        return self.requested(urllib.request.Request(self.url + path), min(LOOK, self.seconds), reading)

    def post(self, path: str, body: Mapping[str, Any], longer: float = 0.0) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return self.requested(request, self.seconds + longer, True)

    def requested(self, request: urllib.request.Request, seconds: float, reading: bool) -> Any:
        """The answer. Away where there is none within ``seconds``, from the connection to the last byte; Refused where
        there will be none; UserError where it is no JSON."""
        deadline = Deadline(seconds)
        try:
            status, held = answered(request, deadline)
        except (OSError, HTTPException) as problem:
            raise Away(str(deadline) if deadline.passed else with_type(problem)) from problem
        finally:
            deadline.close()
        if deadline.passed:
            raise Away(str(deadline))
        if status >= 400:
            if status in AGAIN and not request.full_url.endswith("/collective_rpc"):
                raise Away(f"status {status}")
            said = shortened(" ".join(held[:SAID].decode("utf-8", "replace").split()), 200)
            raise Refused(f"{self.name} refuses with status {status}: {said}")
        require(len(held) <= LARGEST, f"{self.name} gave an answer of more than {LARGEST >> 20} MiB")
        if not reading or not held:
            return None
        try:
            return json.loads(held)
        except ValueError as problem:
            raise UserError(
                f"{self.name} answers {shortened(held.decode('utf-8', 'replace'), 60)!r}, which is no JSON: is it vLLM?"
            ) from problem


def answered(request: urllib.request.Request, deadline: Deadline) -> tuple[int, bytes]:
    """(status, what it says: of an error the beginning). OSError or HTTPException for an answer that is not whole."""
    try:
        with opened(request, deadline) as response:
            held = response.read(LARGEST + 1)
            if response.length and len(held) <= LARGEST:
                raise ConnectionResetError(f"the answer breaks off after {len(held)} bytes")
            return response.status, held
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, problem.read(SAID)


def choice_of(told: Any) -> Mapping[str, Any]:
    choices = told.get("choices") if isinstance(told, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def completion_of(told: Any, name: str) -> Completion | None:
    """What a server said that it wrote; None: it broke off. UserError where it is no completion."""
    choice = choice_of(told)
    if choice.get("finish_reason") == "abort":
        return None
    noted = choice.get("logprobs")
    ids, log_probs = choice.get("token_ids"), noted.get("token_logprobs") if isinstance(noted, dict) else None
    if not (
        isinstance(ids, list)
        and isinstance(log_probs, list)
        and all(isinstance(one, int) and not isinstance(one, bool) for one in ids)
        and all(isinstance(one, float | int) and not isinstance(one, bool) for one in log_probs)
    ):
        raise UserError(f"{name} gives no token ids with log-probs: is it vLLM?")
    return Completion(ids, [float(one) for one in log_probs])
