"""Scoring rows that share prompts, against the same rows in one padded pass: seconds, processor seconds, tokens.

    python benchmarks/bench_scoring.py                        the arena's model, one thread
    python benchmarks/bench_scoring.py --model FOLDER         any other; --shape as often as wanted
    python benchmarks/bench_scoring.py --shape 4x8:256+64x1   4 prompts, 8 rollouts each, of 256 + 64 tokens, 1 view

A view is a context of every prompt; all are scored together. Responses are between half and one and a half times as
long as said, the same for both sides, which take turns in one process.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from dataclasses import dataclass

import torch

from selfteach.policy.economy import PLAIN, Economy, economy_of
from selfteach.policy.loading import Policy, load_policy
from selfteach.policy.passes import row_of
from selfteach.policy.scorer import LocalScorer
from selfteach.task.arena import model_folder, resolve_model

SHAPES = ("1x8:256+64x1", "4x8:64+16x1", "4x8:128+128x1", "8x4:128+32x1", "4x4:128+32x4", "32x1:128+32x1")
FORM = re.compile(r"(\d+)x(\d+):(\d+)\+(\d+)x(\d+)")


@dataclass(frozen=True)
class Shape:
    """``prompts``, ``rollouts`` of each, their tokens, and ``views``: contexts of each prompt."""

    prompts: int
    rollouts: int
    context: int
    response: int
    views: int

    @classmethod
    def read(cls, text: str) -> Shape:
        found = FORM.fullmatch(text)
        if found is None:
            raise SystemExit(
                f"--shape {text!r}: give PROMPTSxROLLOUTS:CONTEXT+RESPONSExVIEWS, as 4x8:256+64x1."
            )
        return cls(*map(int, found.groups()))

    def rows(self, vocabulary: int) -> tuple[list[list[int]], list[list[int]]]:
        generator = torch.Generator().manual_seed(0)

        def drawn(count: int) -> list[int]:
            return torch.randint(5, vocabulary, (count,), generator=generator).tolist()

        contexts, responses = [], []
        for _ in range(self.prompts):
            least = max(1, self.response // 2)
            spread = 2 * (self.response - least) + 1
            lengths = (least + torch.randint(0, spread, (self.rollouts,), generator=generator)).tolist()
            answers = [drawn(length) for length in lengths]
            for _ in range(self.views):
                contexts += [drawn(self.context)] * self.rollouts
                responses += answers
        return contexts, responses


def timed(policy: Policy, economy: Economy, shape: Shape, gradient: bool) -> tuple[float, float]:
    """(seconds, processor seconds) of scoring the shape's rows."""
    rows = shape.rows(policy.vocabulary)
    policy.model.zero_grad()
    wall, used = time.perf_counter(), time.process_time()
    with torch.set_grad_enabled(gradient):
        states = LocalScorer(economy=economy).states(policy, *rows)
        if gradient:
            states.float().square().sum().backward()
    if states.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - used


def line(policy: Policy, text: str, gradient: bool, repetitions: int) -> str:
    shape = Shape.read(text)
    sides = {"plain": PLAIN, "shared": economy_of(policy.model)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, economy in sides.items():
            one = timed(policy, economy, shape, gradient)
            if repetition:  # the first warms caches up
                found[name].append(one)
    rows = [row_of(*one) for one in zip(*shape.rows(policy.vocabulary), strict=True)]
    tokens = {name: one.tokens(rows, one.plan(rows)) for name, one in sides.items()}
    ratios = [
        sorted(a[i] / b[i] for a, b in zip(found["shared"], found["plain"], strict=True)) for i in (0, 1)
    ]
    wall, used = (
        {name: statistics.median(one[i] for one in times) for name, times in found.items()} for i in (0, 1)
    )
    return (
        f"{text:<16} {'forward+backward' if gradient else 'forward':<17}"
        f"{tokens['plain']:>7} {tokens['shared']:>7} {tokens['shared'] / tokens['plain']:>5.2f}   "
        f"{wall['plain']:>7.3f} {wall['shared']:>7.3f} {used['plain']:>7.3f} {used['shared']:>7.3f}   "
        f"{statistics.median(ratios[0]):.2f} [{ratios[0][0]:.2f}, {ratios[0][-1]:.2f}]   "
        f"{statistics.median(ratios[1]):.2f} [{ratios[1][0]:.2f}, {ratios[1][-1]:.2f}]"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="folder or hub id (default: the arena's model)")
    parser.add_argument("--shape", action="append", help=f"default: {' '.join(SHAPES)}")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "mixed", "bfloat16"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = resolve_model(given.model) if given.model else str(model_folder("table"))
    policy = load_policy(folder, precision=given.precision, device=given.device)
    print(
        f"{given.model or 'arena'}, {given.precision}, {given.device}, {given.threads} threads, "
        f"torch {torch.__version__}; seconds and processor seconds of plain and shared, ratio [least, most] of each"
    )
    print(
        f"{'prompts x rollouts':<34}{'tokens':>14}{'ratio':>7}   {'seconds':>15} {'processor s':>15}"
        f"   {'seconds':<17}   processor s"
    )
    for text in given.shape or SHAPES:
        for gradient in (False, True):
            print(line(policy, text, gradient, given.repetitions), flush=True)


if __name__ == "__main__":
    main()
