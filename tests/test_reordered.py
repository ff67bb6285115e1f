"""Linear layers reordered for oneDNN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from selfteach.objective.head import Head
from selfteach.policy.reordered import LEAST, reordered, reordered_head

WIDE = 300
MEMORY = 2**30

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    small = nn.Linear(WIDE, 8)
    assert small.weight.numel() < LEAST <= WIDE * WIDE
    return nn.Sequential(nn.Linear(WIDE, WIDE), nn.SiLU(), nn.Linear(WIDE, WIDE, bias=False), small).to(dtype)


def replaced(model: nn.Module) -> list[bool]:
    return ["forward" in one.__dict__ for one in model.modules() if isinstance(one, nn.Linear)]


@needs_onednn
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [1, 8, 70])
def test_it_computes_what_the_layers_compute(dtype: torch.dtype, tolerance: float, rows: int) -> None:
    model, states = network(dtype), torch.randn(rows, 3, WIDE).to(dtype)
    with torch.no_grad():
        expected = model(states)
        with reordered(model, rows, MEMORY):
            assert replaced(model) == [True, True, False]  # a small one is left alone
            found = model(states)
    assert replaced(model) == [False, False, False]
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@needs_onednn
def test_it_takes_the_weights_as_they_are_when_it_is_entered() -> None:
    model, states = network(), torch.randn(4, WIDE)
    with torch.no_grad():
        model[0].weight.mul_(2)
        expected = model(states)
        with reordered(model, 4, MEMORY):
            torch.testing.assert_close(model(states), expected, rtol=1e-5, atol=1e-5)


def test_an_error_within_leaves_the_layers_as_they_were() -> None:
    model = network()
    with pytest.raises(KeyError), reordered(model, 4, MEMORY):
        raise KeyError
    assert replaced(model) == [False, False, False]


@pytest.mark.parametrize(
    ("model", "memory"),
    [(network(), 4 * WIDE * WIDE), (network(torch.float64), MEMORY)],
    ids=["room", "dtype"],
)
def test_nothing_is_laid_out_without_room_or_in_other_numbers(model: nn.Module, memory: int) -> None:
    with reordered(model, 4, memory):
        assert replaced(model) == [False, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_heads_logits_stay_those_of_float32_arithmetic(dtype: torch.dtype) -> None:
    weight, bias = torch.randn(500, WIDE).to(dtype), torch.randn(500)
    head = Head(weight, bias, scale=0.5, softcap=20.0, vocabulary=480)
    states = torch.randn(6, WIDE).to(dtype)
    found = reordered_head(head, 6, MEMORY).logits(states)
    assert found.shape == (6, 480)
    torch.testing.assert_close(found, head.logits(states), rtol=1e-5, atol=1e-5)
    assert reordered_head(head, 6, 1000) is head
