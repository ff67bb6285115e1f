"""Optimizers of methods without tokens: every schedule's rates, and that a checkpoint holds every one of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from selfteach.recipes.network import NetworkOptimization
from selfteach.training import checkpoint
from selfteach.training.network_learner import trained

STEPS, WARMUP = 20, 4
SHAPES = {
    "constant": lambda i: 1.0,
    "linear": lambda i: (STEPS - i) / (STEPS - WARMUP),
    "cosine": lambda i: (1 + math.cos(math.pi * (i - WARMUP) / (STEPS - WARMUP))) / 2,
    "step": lambda i: 1.0 if i < 10 else 0.1 if i < 15 else 0.01,
}
"""Share of the peak rate at step i = 4, 5 … 19, behind the warm-up."""


@pytest.mark.parametrize("schedule", SHAPES)
@pytest.mark.parametrize("moves", [10, 80])
def test_a_network_that_moves_in_some_batches_alone_warms_up_by_the_same_batch(
    schedule: str, moves: int
) -> None:
    """Moved at every fourth batch, or twice in each, it is through its warm-up after as many batches as one that is
    moved once in each."""
    how = NetworkOptimization(lr=0.5, schedule=schedule, warmup=8, steps=40)
    one = trained(nn.Linear(2, 1), how, moves)
    rates = []
    for _ in range(moves):
        rates.append(one.optimizer.param_groups[0]["lr"])
        one.optimizer.step()
        assert one.scheduler is not None
        one.scheduler.step()
    through = moves // 5
    assert rates.index(max(rates)) == through
    assert rates[through] == pytest.approx(0.5)
    assert rates[:through] == sorted(rates[:through])


@pytest.mark.parametrize("optim", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", SHAPES)
def test_rates_are_those_of_the_schedule_also_after_a_checkpoint(
    tmp_path: Path, schedule: str, optim: str
) -> None:
    how = NetworkOptimization(optim=optim, lr=0.5, schedule=schedule, warmup=WARMUP, steps=STEPS)

    def made() -> tuple[nn.Linear, object]:
        torch.manual_seed(0)
        layer = nn.Linear(2, 1)
        return layer, trained(layer, how)

    def moved(layer: nn.Linear, one: object, first: int, last: int) -> list[float]:
        rates = []
        for step in range(first, last):
            rates.append(one.optimizer.param_groups[0]["lr"])
            layer(torch.full((1, 2), 1.0 + step)).square().sum().backward()
            one.optimizer.step()
            one.scheduler.step()
            one.optimizer.zero_grad()
        return rates

    layer, one = made()
    rates = moved(layer, one, 0, 12)
    state = {
        "weights": layer.state_dict(),
        "optimizer": one.optimizer.state_dict(),
        "schedule": one.scheduler.state_dict(),
    }
    state["optimizer"]["state"] = {str(k): v for k, v in state["optimizer"]["state"].items()}
    again, other = made()
    saved = checkpoint.load(checkpoint.save(tmp_path, 12, state))
    saved["optimizer"]["state"] = {int(k): v for k, v in saved["optimizer"]["state"].items()}
    again.load_state_dict(saved["weights"])
    other.optimizer.load_state_dict(saved["optimizer"])
    other.scheduler.load_state_dict(saved["schedule"])
    rates += moved(layer, one, 12, STEPS)
    moved(again, other, 12, STEPS)
    assert torch.equal(layer.weight, again.weight)
    warming = [i / WARMUP for i in range(WARMUP)]
    expected = warming + [SHAPES[schedule](i) for i in range(WARMUP, STEPS)]
    assert rates == pytest.approx([0.5 * share for share in expected])
