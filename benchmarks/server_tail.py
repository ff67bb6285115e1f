"""How well 1 − Σ of a server's float32 log-probs gives the mass of all tokens but the listed ones.

python benchmarks/server_tail.py [--vocabulary 32000] [--k 20] [--positions 256]

Logits are drawn so that the k likeliest tokens leave a given tail; log-probs are torch's float32 log-softmax on a CPU.
Prints, by that tail, the median and the largest distance (nats) of log(1 − Σ) from its logarithm; 1 − Σ counts as
``LEAST_TAIL`` where it is less, as for a served teacher.
"""

from __future__ import annotations

import argparse
import math

import torch

from selfteach.policy.logprob_server import LEAST_TAIL


def apart(tail: float, vocabulary: int, k: int, positions: int) -> tuple[float, float]:
    """(median, largest) distance in nats."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(positions, k, generator=generator, dtype=torch.float64).log_softmax(-1)
    rest = torch.randn(positions, vocabulary - k, generator=generator, dtype=torch.float64).log_softmax(-1)
    exact = torch.cat([head + math.log1p(-tail), rest + math.log(tail)], dim=-1)
    shift = 10 * torch.rand(positions, 1, generator=generator, dtype=torch.float64)  # logits, not log-probs
    told = (exact + shift).float().log_softmax(-1).double()[:, :k]
    left = (1 - told.exp().sum(-1)).clamp(min=LEAST_TAIL)
    found = (left.log() - math.log(tail)).abs()
    return float(found.median()), float(found.max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--positions", type=int, default=256)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, V = {given.vocabulary:,}, k = {given.k}, {given.positions} positions")
    for tail in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7):
        median, most = apart(tail, given.vocabulary, given.k, given.positions)
        print(f"tail {tail:.0e}  median {median:.2g}  largest {most:.2g} nats")


if __name__ == "__main__":
    main()
