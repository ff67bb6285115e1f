"""Sampling by this library's decode loop against transformers' ``generate``, the same tokens drawn by both.

    python benchmarks/bench_decoding.py --model FOLDER [--prompts 8] [--samples 1] [--tokens 64] [--dtype bfloat16]

Prints the median seconds, processor seconds and tokens a second of each side over alternating repetitions with their
spread, and the ratio. Stop tokens are ignored, so that both sides write ``prompts × samples × tokens``. Sides:
``decoded`` (as the sampler does it), ``plain`` (the same without what a device has for it: weights laid out for oneDNN
on a CPU, a recorded pass on a GPU), ``generate``; and, where named in ``--also``, what transformers offers beside it,
drawing with a generator of its own: ``static`` (a cache of fixed size), ``compiled`` (the same under torch.compile),
``continuous`` (continuous batching over a paged cache).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch
from transformers import CompileConfig, GenerationConfig

from selfteach.policy import sampler
from selfteach.policy.draws import Draws, Sampling
from selfteach.policy.loading import Policy, load_policy
from selfteach.policy.passes import left
from selfteach.policy.sampler import Sample, decoded, generated

QUESTION = "{} boxes hold {} pencils each, and {} pencils are lost. How many are left? Reason step by step."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a Hugging Face causal language model")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1, help="answers a prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--also", nargs="+", choices=("static", "compiled", "continuous"), default=[])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    policy = load_policy(given.model)
    policy.model.to(given.device, getattr(torch, given.dtype))
    sides = sides_of(policy) | {name: partial(borrowed, policy, name) for name in given.also}
    prompts = [
        policy.renderer.prompt_ids([{"role": "user", "content": QUESTION.format(i + 2, i + 5, i)}])
        for i in range(given.prompts)
        for _ in range(given.samples)
    ]
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repetition in range(given.repeats + 1):  # the first one warms up
        for name, side in sides.items():
            seconds = timed(side, prompts, given.tokens, policy.model.device)
            took[name] += [seconds] if repetition else []
            print(f"{name}: {seconds[0]:.2f} s{'' if repetition else ', warming up'}", flush=True)
    print(
        f"{len(prompts)} rows × {given.tokens} tokens, {given.dtype}, {device_name(policy.model.device)}, "
        f"{given.threads} threads, torch {torch.__version__}"
    )
    base = statistics.median(wall for wall, _ in took["generate"])
    for name, times in took.items():
        walls, processor = [wall for wall, _ in times], [cpu for _, cpu in times]
        middle = statistics.median(walls)
        spread = f"{middle:6.2f} s ({min(walls):.2f}–{max(walls):.2f})"
        rate = f"{len(prompts) * given.tokens / middle:5.0f} tokens/s, {middle / base:.2f} × generate"
        print(f"{name:10s} {spread}, processor {statistics.median(processor):6.2f} s, {rate}")


Side = Callable[[list[list[int]], Draws], list[Sample]]


def sides_of(policy: Policy) -> dict[str, Side]:
    endless = replace(policy, renderer=Endless(policy.renderer))
    bare = replace(endless, room=replace(policy.room, memory=0))  # no memory to lay weights out in

    def plain(prompts: list[list[int]], draws: Draws) -> list[Sample]:
        with patch.object(sampler, "can_record", lambda *_: False):
            return decoded(bare, prompts, draws, lambda _: None)

    return {
        "decoded": lambda prompts, draws: decoded(endless, prompts, draws, lambda _: None),
        "plain": plain,
        "generate": lambda prompts, draws: generated(endless, prompts, draws, lambda _: None),
    }


def borrowed(policy: Policy, name: str, prompts: list[list[int]], draws: Draws) -> list[Sample]:
    """The same number of tokens by another of transformers' ways, drawn by itself and without their log-probs."""
    model, tokens = policy.model, draws.sampling.max_tokens
    config = GenerationConfig(
        max_new_tokens=tokens, do_sample=True, top_k=0, pad_token_id=0, eos_token_id=None
    )
    if name == "continuous":
        found = model.generate_batch(prompts, generation_config=config, persistent_manager=True)
        written = [one.generated_tokens for one in found.values()]
    else:
        config.cache_implementation = "static"
        if name == "compiled":
            config.compile_config = CompileConfig(mode="default")
            # Off a GPU `generate` compiles nothing without this.
            config.compile_config._compile_all_devices = True
        ids = left(prompts, 0)
        mask = left([[1] * len(prompt) for prompt in prompts], 0)
        on = model.device
        both = model.generate(ids.to(on), attention_mask=mask.to(on), generation_config=config)
        written = both[:, ids.shape[1] :].tolist()
    return [Sample(ids, [0.0] * len(ids), finished=False) for ids in written]


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


class Endless:
    """A renderer without stop tokens but one that no vocabulary reaches."""

    def __init__(self, renderer: object) -> None:
        self.renderer, self.stop_ids = renderer, frozenset([2**31])

    def __getattr__(self, name: str) -> object:
        return getattr(self.renderer, name)


@torch.no_grad()
def timed(side: Side, prompts: list[list[int]], tokens: int, device: torch.device) -> tuple[float, float]:
    """(wall, processor) seconds of one sampling, whose answers are on the host in the end."""
    draws = Draws(Sampling(tokens), [str(i) for i in range(len(prompts))], device)
    wall, processor = time.perf_counter(), time.process_time()
    written = side(prompts, draws)
    seconds = time.perf_counter() - wall, time.process_time() - processor
    assert sum(len(one.ids) for one in written) == len(prompts) * tokens
    return seconds


if __name__ == "__main__":
    main()
