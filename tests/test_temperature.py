"""The temperature at which a distribution has a given entropy."""

from __future__ import annotations

import math

import pytest
import torch

from selfteach.objective.temperature import entropy_at, temperature_of

LOGITS = 3 * torch.randn(40, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def at(value: float) -> torch.Tensor:
    return torch.full((len(LOGITS),), value, dtype=torch.float64)


def test_entropy_rises_with_the_temperature_up_to_that_of_all_alike() -> None:
    rising = torch.stack([entropy_at(LOGITS, at(t)) for t in (0.1, 0.5, 1.0, 2.0, 10.0, 1e6)])
    assert (rising.diff(dim=0) > 0).all()
    torch.testing.assert_close(rising[-1], at(math.log(11)))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.9])
def test_it_finds_the_temperature_that_an_entropy_was_made_at(temperature: float) -> None:
    found = temperature_of(LOGITS, entropy_at(LOGITS, at(temperature)), 0.5, 2.0, rounds=45)
    torch.testing.assert_close(found, at(temperature), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("entropy", "end"), [(0.0, 0.5), (math.log(11), 2.0)])
def test_the_nearer_end_stands_for_what_no_temperature_between_has(entropy: float, end: float) -> None:
    torch.testing.assert_close(temperature_of(LOGITS, at(entropy), 0.5, 2.0), at(end), atol=2e-6, rtol=0)


def test_a_token_that_cannot_be_drawn_is_no_nan() -> None:
    cut = torch.cat([LOGITS, torch.full_like(LOGITS[:, :2], -torch.inf)], dim=1)
    torch.testing.assert_close(entropy_at(cut, at(1.3)), entropy_at(LOGITS, at(1.3)))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_a_range_that_is_none_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="0 < low <= high"):
        temperature_of(LOGITS, at(1.0), low, high)
