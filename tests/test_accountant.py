"""What noise costs: closed forms, sums, and the numbers of a library of its own."""

from __future__ import annotations

import math

import pytest

from selfteach.control.accountant import LEAST, ORDERS, epsilon, log_moment, noise_for, renyi


def binomial(rate: float, noise: float, order: int) -> float:
    """log A of a whole order (arXiv 1908.10530, section 3.3): Σ_k C(α, k) (1 − q)^(α − k) q^k exp((k² − k) / 2σ²)."""
    terms = [
        math.log(math.comb(order, k))
        + (order - k) * math.log1p(-rate)
        + k * math.log(rate)
        + (k * k - k) / (2 * noise**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    return largest + math.log(sum(math.exp(one - largest) for one in terms))


@pytest.mark.parametrize("order", [2, 3, 8, 32, 63])
@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.3, 0.5), (0.004, 4.0), (0.5, 0.25), (1e-4, 0.7)])
def test_a_whole_orders_moment_is_the_binomial_sum(rate: float, noise: float, order: int) -> None:
    assert log_moment(rate, noise, order) == pytest.approx(binomial(rate, noise, order), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("noise", [0.5, 1.0, 3.0])
def test_a_step_on_all_records_is_the_gaussian_mechanism(noise: float) -> None:
    assert renyi(1.0, noise) == pytest.approx([order / (2 * noise**2) for order in ORDERS])
    assert renyi(1 - 1e-12, noise) == pytest.approx(renyi(1.0, noise), rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.4])
def test_it_rises_with_order_and_rate_and_falls_with_noise(rate: float) -> None:
    here = renyi(rate, 0.8)
    assert list(here) == sorted(here)
    assert all(a < b for a, b in zip(here, renyi(2 * rate, 0.8), strict=True))
    assert all(a > b for a, b in zip(here, renyi(rate, 1.6), strict=True))


def test_next_to_no_noise_is_bounded_by_the_step_on_all_records() -> None:
    assert renyi(0.01, LEAST / 2) == renyi(1.0, LEAST / 2)
    below = renyi(0.01, LEAST)
    assert all(a <= b for a, b in zip(below, renyi(1.0, LEAST), strict=True))


@pytest.mark.parametrize(("rate", "noise"), [(0.0, 1.0), (1.5, 1.0), (0.1, 0.0), (0.1, math.inf)])
def test_rates_and_noises_out_of_range_are_refused(rate: float, noise: float) -> None:
    with pytest.raises(ValueError, match="rate must lie"):
        renyi(rate, noise)


OPACUS = [
    (256 / 60000, 1.1, 14063, 1e-5, 2.5966555286883684),
    (0.01, 1.0, 1000, 1e-6, 2.436693803022139),
    (0.01, 4.0, 10000, 1e-5, 1.0354900660362476),
    (1 / 128, 0.7, 60, 1e-5, 2.646969471245566),
    (0.1, 2.0, 100, 1e-4, 2.2143481223553447),
    (0.001, 0.5, 500, 1e-6, 4.984354859680729),
]
"""(rate, noise, steps, δ, ε): ``opacus.accountants.analysis.rdp`` of opacus 1.6.0 at its default orders."""


@pytest.mark.parametrize(("rate", "noise", "steps", "delta", "expected"), OPACUS)
def test_epsilon_is_that_of_opacus(
    rate: float, noise: float, steps: int, delta: float, expected: float
) -> None:
    assert epsilon(rate, noise, steps, delta) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(2.0, 0.01, 1000), (8.0, 1 / 128, 60), (0.5, 0.001, 500)]
)
def test_the_noise_found_is_the_least_that_keeps_epsilon(target: float, rate: float, steps: int) -> None:
    sigma = noise_for(target, rate, steps, 1e-6)
    assert epsilon(rate, sigma, steps, 1e-6) <= target
    assert sigma == LEAST or epsilon(rate, sigma / 1.002, steps, 1e-6) > target


def test_an_epsilon_that_no_noise_gives_is_infinite_noise() -> None:
    assert noise_for(1e-6, 0.01, 10, 1e-6) == math.inf


def test_more_steps_cost_more() -> None:
    spent = [epsilon(0.01, 1.0, steps, 1e-5) for steps in (1, 10, 100, 1000)]
    assert spent == sorted(spent)
    assert spent[0] > 0
