"""Rollouts' tokens a second: the model's own sampler beside vLLM, in this process or by a server, the same prompts.

    python benchmarks/bench_vllm.py --model FOLDER [--server URL] [--prompts 8] [--samples 4] [--tokens 64]

In an environment that has vLLM (docs/vllm.md). Stop tokens are ignored, so that all sides write prompts × samples ×
tokens. Prints the median tokens a second over alternating repetitions with their spread, the seconds of a push of the
weights, and how far log-probs lie apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from selfteach.policy.checkpoint_weights import checkpoint_weights
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, load_policy
from selfteach.policy.sampler import LocalSampler, Sampler
from selfteach.policy.vllm_colocated import ColocatedEngine
from selfteach.policy.vllm_sampler import VllmSampler, log_probs_of
from selfteach.policy.vllm_server import VllmServer

QUESTION = "Janet has {} boxes of {} apples and eats {} of them. How many are left? Think step by step."


class Endless:
    """A renderer whose turns never end."""

    def __init__(self, renderer: Any) -> None:
        self.renderer = renderer
        self.stop_ids: frozenset[int] = frozenset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.renderer, name)


def prompts_of(policy: Policy, count: int, samples: int) -> list[list[int]]:
    asked = [[{"role": "user", "content": QUESTION.format(i + 2, i + 5, i)}] for i in range(count)]
    return [ids for one in asked for ids in [policy.renderer.prompt_ids(one, None)] * samples]  # type: ignore[arg-type]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--model", required=True)
    words.add_argument("--server", default="")
    words.add_argument("--prompts", type=int, default=8)
    words.add_argument("--samples", type=int, default=4)
    words.add_argument("--tokens", type=int, default=64)
    words.add_argument("--repeat", type=int, default=3)
    words.add_argument("--window", type=int, default=1024)
    words.add_argument("--device", default="cpu")
    given = words.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    policy = load_policy(given.model, device=given.device)
    engine = (
        VllmServer(given.server, 600.0)
        if given.server
        else ColocatedEngine(policy, "float32", window=given.window)
    )
    ours = replace(policy, renderer=Endless(policy.renderer))
    by_vllm = VllmSampler(ours, engine, lambda: checkpoint_weights(policy, untied=engine.untied), "bench")
    pushes = []
    for _ in range(given.repeat):
        began = time.perf_counter()
        by_vllm.sync(by_vllm.weights_of())
        pushes.append(time.perf_counter() - began)
    print(f"push: {statistics.median(pushes):.2f} s of {sorted(round(one, 2) for one in pushes)}")
    prompts, sampling = prompts_of(policy, given.prompts, given.samples), Sampling(given.tokens)
    keys = [str(i) for i in range(len(prompts))]
    sides: dict[str, Sampler] = {"local": LocalSampler(ours), "vLLM": by_vllm}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(given.repeat + 1):
        for name, sampler in sides.items():
            began = time.perf_counter()
            found = sampler.sample(prompts, sampling, keys=keys)
            if turn:  # the first warms up
                rates[name].append(sum(len(one.ids) for one in found) / (time.perf_counter() - began))
    with torch.no_grad():
        told = log_probs_of(policy, prompts, [one.ids for one in found], 1.0)
    apart = [
        abs(a - b)
        for own, one in zip(told, found, strict=True)
        for a, b in zip(own, one.behavior, strict=True)
    ]
    for name, values in rates.items():
        print(f"{name}: {statistics.median(values):.0f} tokens/s of {sorted(map(round, values))}")
    print(f"log-probs of vLLM's draws: {max(apart):.1e} nats from the model's at most")


if __name__ == "__main__":
    main()
