"""A served teacher against vLLM itself, on a CPU, with the arena's model. Run with ``pytest -m slow`` where vllm is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
import torch

from selfteach.objective.listed import Listed
from selfteach.policy.chat_server import ChatServer
from selfteach.policy.loading import load_policy
from selfteach.policy.logprob_server import ids_of, listed_by
from selfteach.task.arena import model_folder

pytestmark = pytest.mark.slow
pytest.importorskip("vllm", reason="vLLM is in an environment of its own")
STARTS = 600.0
"""Seconds that a server may take to load."""
K = 20
VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
FOLDER = str(model_folder("table"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM server of the arena's model in float32."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", FOLDER, "--served-model-name", "t",
        "--port", str(port), "--dtype", "float32", "--max-model-len", "128", "--max-logprobs", str(K),
        "--enforce-eager",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(words, stdout=stream, stderr=stream, env={**os.environ, **VARIABLES})
        try:
            until = time.monotonic() + STARTS
            while True:
                assert server.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < until, log.read_text()[-3000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except OSError:
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(60)


def test_vllm_hands_over_the_log_probs_of_the_model_itself(url: str) -> None:
    policy, server = load_policy(FOLDER), ChatServer(url, "t")
    ids = policy.tokenizer.encode(
        "<user>6@4;0*2;9+1<assistant>6@4=7;0*2=0;9+1=0;#0", add_special_tokens=False
    )
    places = list(range(4, len(ids)))
    (found,) = listed_by(server, [(ids, places)], K, policy.vocabulary)
    assert isinstance(found, Listed), found
    with torch.no_grad():
        logits = policy.model(torch.tensor([ids])).logits[0, : len(ids) - 1, : policy.vocabulary].double()
    exact = logits.log_softmax(-1)[[place - 1 for place in places]]
    own = exact.gather(-1, torch.tensor([[ids[place]] for place in places])).squeeze(-1)
    assert (found.sampled - own).abs().max() < 1e-3
    assert (found.states - exact.topk(K).values).abs().max() < 1e-3
    assert ids_of(server, "6@4;0*2") == policy.tokenizer.encode("6@4;0*2", add_special_tokens=False)


def test_vllm_names_its_bound_on_log_probs(url: str) -> None:
    (found,) = listed_by(ChatServer(url, "t"), [([5, 6, 7], [1, 2])], K + 1, 101)
    assert isinstance(found, str)
    assert "logprobs" in found
