"""The loss's time against the size of its blocks: a JSD to each of several teachers, on one thread of a CPU.

    python benchmarks/bench_blocks.py [--vocabulary 8000 49152] [--teachers 1 2 4 8] [--tokens 512] [--repeats 5]

A line a case: median processor seconds over repetitions in turns, after one that warms up, for blocks of each size, and
the ratio to the largest.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import selfteach.objective as obj
from selfteach.objective import positions

MIB = 2**20
SIZES = (MIB, 2 * MIB, 4 * MIB)
WIDTH = 128


def case(vocabulary: int, teachers: int, tokens: int) -> tuple[obj.ScoredBatch, list[obj.Match], obj.Columns]:
    """One row of random states under one head, and a term for each teacher."""
    random = torch.Generator().manual_seed(0)
    head = torch.randn(vocabulary, WIDTH, generator=random)
    ids = torch.randint(vocabulary, (1, tokens), generator=random)
    columns = obj.Columns(ids, torch.ones(1, tokens, dtype=torch.bool))
    names = [f"teacher-{i}" for i in range(teachers)]

    def states() -> torch.Tensor:
        return torch.randn(1, tokens, WIDTH, generator=random)

    roles = {"student": obj.Scored(states().requires_grad_(), obj.Head(head.clone().requires_grad_()))}
    roles |= {name: obj.Scored(states(), obj.Head(head)) for name in names}
    terms = [obj.Match(name=name, target=obj.FromRole(name), divergence=obj.JSD(0.5)) for name in names]
    return obj.ScoredBatch.padded(columns, roles), terms, columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[8_000, 49_152])
    parser.add_argument("--teachers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for vocabulary in given.vocabulary:
        for teachers in given.teachers:
            batch, terms, columns = case(vocabulary, teachers, given.tokens)
            took: dict[int, list[float]] = {size: [] for size in SIZES}
            for repetition in range(given.repeats + 1):
                for size in SIZES:
                    positions.BLOCK_BYTES = size
                    began = time.process_time()
                    obj.evaluate_terms(batch, obj.plan(terms, columns))
                    took[size] += [time.process_time() - began] if repetition else []
            middle = {size: statistics.median(seconds) for size, seconds in took.items()}
            told = ", ".join(
                f"{size // MIB} MiB {seconds:.3f} s ({seconds / middle[SIZES[-1]]:.2f})"
                for size, seconds in middle.items()
            )
            print(f"V = {vocabulary:,}, teachers {teachers}: {told}", flush=True)


if __name__ == "__main__":
    main()
