"""Which tensors hold numbers that are not finite."""

from __future__ import annotations

import math

import pytest
import torch

from selfteach.training.gradients import not_finite

HUGE = torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("broken", "dtype"),
    [
        ([math.nan], torch.float32),
        ([math.inf], torch.float32),
        ([math.inf, -math.inf], torch.float32),  # which sum to NaN
        ([math.inf], torch.bfloat16),
    ],
)
def test_what_is_not_finite_is_named(broken: list[float], dtype: torch.dtype) -> None:
    tensors = {
        "fine": torch.ones(3),
        "broken": torch.ones(2, 4, dtype=dtype),
        "behind": torch.tensor(math.nan),
    }
    assert not_finite({"fine": tensors["fine"]}) is None
    tensors["broken"].view(-1)[1 : 1 + len(broken)] = torch.tensor(broken).to(dtype)
    assert not_finite(tensors) == "broken"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((8,), HUGE),
        torch.full((8,), HUGE, dtype=torch.float64) * 2,
        torch.full((8,), 65504.0).half(),
        torch.zeros(0),
        torch.tensor([1, 2]),
    ],
    ids=["float32", "float64", "float16", "empty", "integers"],
)
def test_numbers_whose_sum_runs_over_are_finite(tensor: torch.Tensor) -> None:
    assert not_finite({"large": tensor}) is None
    assert not_finite({}) is None
