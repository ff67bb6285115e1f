"""Gradients of rows that share contexts, by a network that these processes shard and by one that each has whole.

python -m torch.distributed.run --standalone --nproc-per-node 2 sharded_prefix.py FILE

Writes, by what is trained and how layers are kept, how far states and gradients are apart; all is float64, but for the
norms, which transformers computes in float32.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from selfteach.policy.economy import PLAIN, Economy
from selfteach.policy.loading import Policy, bare
from selfteach.policy.lora import LoraConfig, with_lora
from selfteach.policy.passes import Shared, row_of
from selfteach.policy.recomputing import Checkpointing, recompute
from selfteach.policy.renderer import ChatRenderer
from selfteach.policy.room import room_of
from selfteach.policy.scorer import LocalScorer
from selfteach.policy.sharding import Fsdp, gathered, is_split, mesh_of, settle, shard
from selfteach.training.reduce import gather_rows, processes, state_on
from tiny import tiny_model, tiny_tokenizer

ROLLOUTS = {0: (3, 2), 1: (4,)}
"""By process: how many rollouts there are of each of its prompts, which makes unlike numbers of passes."""
SHARED = Economy(share=True, pack=False, fixed=8)


@dataclass(frozen=True)
class Case:
    how: Fsdp
    lora: bool = False
    recomputed: Checkpointing = "none"


CASES = {
    "full_shard": Case("full_shard"),
    "full_shard, layers computed again": Case("full_shard", recomputed="full"),
    "shard_grad_op": Case("shard_grad_op"),
    "full_shard, LoRA": Case("full_shard", lora=True),
    "full_shard, LoRA, layers computed again": Case("full_shard", lora=True, recomputed="full"),
}


def network_of(case: Case) -> nn.Module:
    """The same numbers in every process; an adapter's second factor is no zero, as it begins."""
    network = tiny_model(60, width=64, layers=3).double()
    made = with_lora(network, LoraConfig(rank=4, alpha=8)) if case.lora else network
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, one in made.named_parameters():
            if "lora_" in name:
                one.copy_(0.2 * torch.randn(one.shape, generator=generator))
    made = made.double()
    recompute(bare(made), case.recomputed)
    return made


def rows_of(rank: int) -> tuple[list[list[int]], list[list[int]]]:
    """Contexts, several times each, and answers of unlike lengths behind them."""

    def drawn(count: int, seed: int) -> list[int]:
        return torch.randint(4, 60, (count,), generator=torch.Generator().manual_seed(seed)).tolist()

    prompts = [drawn(40 + 7 * n, 10 * rank + n) for n in range(len(ROLLOUTS[rank]))]
    contexts = [prompts[n] for n, count in enumerate(ROLLOUTS[rank]) for _ in range(count)]
    return contexts, [drawn(2 + 5 * i, 100 * rank + i) for i in range(len(contexts))]


def taken(network: nn.Module, economy: Economy, rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """(the states of a process's rows, the gradients of a weighted sum of them), added to those that are there."""
    tokenizer = tiny_tokenizer()
    policy = Policy("", network, tokenizer, ChatRenderer(tokenizer), 60, room_of(network))
    states = LocalScorer(economy=economy).states(policy, *rows_of(rank))
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(rank), dtype=states.dtype)
    (states * weights).sum().backward()
    settle(network)
    return states.detach(), {
        name: gathered(one.grad) for name, one in network.named_parameters() if one.grad is not None
    }


def compared(case: Case) -> dict[str, float]:
    """How far apart this process's states, and all gradients, are: of each parameter as a share of its largest one."""
    whole = network_of(case)
    rank, count = processes()
    found = [taken(whole, PLAIN, one)[0] for one in range(count)]
    expected = {name: one.grad for name, one in whole.named_parameters() if one.grad is not None}
    sharded = network_of(case)
    shard(bare(sharded), mesh_of(torch.device("cpu")), case.how)
    assert is_split(bare(sharded))
    contexts, answers = rows_of(rank)
    laid = SHARED.laid(list(map(row_of, contexts, answers)), 0)
    assert all(isinstance(one, Shared) for _, one in laid)
    states, gradients = taken(sharded, SHARED, rank)
    assert gradients.keys() == expected.keys()
    return {
        "states": float((states - found[rank]).abs().max()),
        "gradients": max(
            float((gradients[name] - one).abs().max() / one.abs().max()) for name, one in expected.items()
        ),
        "passes": sum(one.passes for _, one in laid),
        "trained": len(gradients),
    }


if __name__ == "__main__":
    state_on("cpu")
    told = {name: gather_rows([compared(case)]) for name, case in CASES.items()}
    if processes()[0] == 0:
        Path(sys.argv[1]).write_text(json.dumps(told))
