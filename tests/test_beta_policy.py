"""The Beta policy of card 06: its density, its delayed reward, its learning, its memory."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
import torch
from torch.distributions import Beta

from selfteach.control.beta_policy import (
    BetaController,
    BetaPolicy,
    beta,
    controller_loss,
    network,
    reward,
    standardized,
)
from selfteach.errors import UserError
from selfteach.training import checkpoint


def row(probe: float = 1.0, answer: float = -1.0, **more: float) -> dict[str, float]:
    observed = {"loss": 0.3, "entropy/student": 0.5, "divergence/teacher": 0.2}
    return {**observed, "reference/student": probe, "reference/teacher": answer, **more}


def policy(a: float, b: float) -> Beta:
    return Beta(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))


# --- the policy --------------------------------------------------------------------------------------------------


def test_both_parameters_exceed_one_in_any_state() -> None:
    layers = network(8, seed=0)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.normal_(std=5.0, generator=torch.Generator().manual_seed(1))
    states = torch.randn(64, 6, generator=torch.Generator().manual_seed(2)).mul(3).tolist()
    found = beta(layers, states)
    assert (found.concentration1 >= 1).all()
    assert (found.concentration0 >= 1).all()
    assert found.concentration1.std() > 0.1


def test_before_any_learning_the_mean_is_one_half_and_a_is_one_plus_softplus_of_zero() -> None:
    with torch.no_grad():
        found = beta(network(16, seed=5), [[0.3] * 6])
    assert float(found.concentration1) == pytest.approx(1 + math.log(2), rel=1e-12)
    assert float(found.mean) == pytest.approx(0.5, rel=1e-12)


def test_log_prob_and_entropy_are_the_closed_forms() -> None:
    a, b, x = 2.7, 1.4, 0.35
    log_norm = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    log_prob = (a - 1) * math.log(x) + (b - 1) * math.log(1 - x) - log_norm
    psi = lambda value: float(torch.digamma(torch.tensor(value, dtype=torch.float64)))  # noqa: E731
    entropy = log_norm - (a - 1) * psi(a) - (b - 1) * psi(b) + (a + b - 2) * psi(a + b)
    draws, advantage = torch.tensor([x], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    plain = controller_loss(policy(a, b), draws, advantage, entropy_target=0.0, entropy_penalty=0.0)
    assert float(plain) == pytest.approx(-log_prob, rel=1e-12)
    hinged = controller_loss(policy(a, b), draws, 0 * advantage, entropy_target=-2.0, entropy_penalty=0.7)
    assert float(hinged) == pytest.approx(0.7 * (entropy + 2.0) ** 2, rel=1e-10)


def test_the_entropy_hinge_is_zero_below_its_target() -> None:
    sharp, none = policy(40.0, 40.0), torch.zeros(1, dtype=torch.float64)
    draws = torch.tensor([0.5], dtype=torch.float64)
    assert float(controller_loss(sharp, draws, none, entropy_target=-0.5, entropy_penalty=1.0)) == 0.0


# --- the reward --------------------------------------------------------------------------------------------------


def test_a_constant_probe_is_no_progress() -> None:
    assert reward([2.0] * 5, [-1.0] * 4, discount=0.9, answer_weight=0.0) == 0.0


def test_an_undiscounted_monotone_fall_is_worth_its_height() -> None:
    probe = [3.0, 2.5, 2.4, 1.0]
    assert reward(probe, [0.0] * 3, discount=1.0, answer_weight=0.0) == pytest.approx(2.0)


def test_a_rise_is_worth_nothing_rather_than_less() -> None:
    assert reward([1.0, 2.0, 1.5], [0.0] * 2, discount=0.5, answer_weight=0.0) == pytest.approx(0.25)


def test_the_teachers_part_is_a_discounted_mean() -> None:
    expected = 0.3 * (-1 - 0.5 * 2 - 0.25 * 4) / 1.75
    assert reward([1.0] * 4, [-1.0, -2.0, -4.0], discount=0.5, answer_weight=0.3) == pytest.approx(expected)


def test_a_lookahead_of_one_is_immediate_feedback() -> None:
    assert reward([2.0, 1.4], [-0.5], discount=0.3, answer_weight=0.1) == pytest.approx(0.6 - 0.05)


def test_standardized_advantages_sum_to_zero_with_deviation_one() -> None:
    found = standardized(torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64))
    assert float(found.sum()) == pytest.approx(0, abs=1e-12)
    assert float(found.square().mean()) == pytest.approx(1, rel=1e-6)


def test_equal_rewards_teach_nothing() -> None:
    assert (standardized(torch.full((4,), 0.7, dtype=torch.float64)) == 0).all()


# --- the clock ---------------------------------------------------------------------------------------------------


def test_a_value_is_held_for_its_steps_and_asking_twice_draws_once() -> None:
    controller = BetaPolicy(hold=3, policy_lr=0.0).start(seed=0)
    values = []
    for step in range(9):
        values.append(controller.choose(step / 9))
        assert controller.choose(step / 9) == values[-1]
        controller.observe(row())
    assert values[0] == values[1] == values[2] != values[3]
    assert values[3] == values[4] == values[5] != values[6]


def test_a_value_never_leaves_its_bounds_but_the_draw_behind_it_may() -> None:
    controller = BetaPolicy(hold=1, lookahead=100, lowest=0.4, highest=0.6, policy_lr=0.0).start(seed=0)
    values = []
    for step in range(60):
        values.append(controller.choose(step / 60))
        controller.observe(row())
    draws = [one.draw for one in controller.open]
    assert min(values) == 0.4
    assert max(values) == 0.6
    assert min(draws) < 0.4
    assert max(draws) > 0.6


def test_a_draw_is_judged_by_what_was_told_from_just_before_it_to_the_end_of_its_lookahead() -> None:
    controller = BetaPolicy(hold=2, lookahead=3, decisions=100).start(seed=0)
    for step in range(7):
        controller.choose(step / 7)
        controller.observe(row(probe=10.0 - step, answer=-float(step)))
    first, second = controller.finished
    assert first.probe == [9.0, 8.0, 7.0, 6.0]
    assert first.answer == [-2.0, -3.0, -4.0]
    assert second.probe == [7.0, 6.0, 5.0, 4.0]
    assert [len(one.answer) for one in controller.open] == [1]


def test_the_state_holds_running_means_of_what_was_told() -> None:
    controller = BetaPolicy(hold=1, smoothing=0.75).start(seed=0)
    value = controller.choose(0.0)
    controller.observe(row(probe=2.0, loss=1.0))
    later = controller.choose(0.5)
    controller.observe(row(probe=1.0, loss=0.0, **{"divergence/teacher": 1.0, "entropy/student": 0.25}))
    controller.choose(0.75)
    assert controller.open[-1].state == pytest.approx(
        [0.75, 0.75 * value + 0.25 * later, 0.75, 0.75 * 0.2 + 0.25 * 1.0, 1.75, math.exp(-0.25)]
    )


def test_a_step_without_a_divergence_leaves_its_running_mean() -> None:
    controller = BetaPolicy().start(seed=0)
    controller.choose(0.0)
    controller.observe(row())
    blind = row()
    del blind["divergence/teacher"]
    controller.observe(blind)
    assert controller.seen["mismatch"] == 0.2


# --- learning ----------------------------------------------------------------------------------------------------


def mean_of(controller: BetaController) -> float:
    with torch.no_grad():
        return float(beta(controller.network, [list(controller.seen.values())]).mean)


def run(controller: BetaController, fall: Any, steps: int) -> float:
    """Let the probe fall in proportion to ``fall(values so far)``; the policy's mean at the end."""
    probe, values = 0.0, []
    for step in range(steps):
        values.append(controller.choose(step / steps))
        probe -= 1e-3 * fall(values)
        controller.observe(row(probe=probe, answer=0.0))
    return mean_of(controller)


@pytest.mark.parametrize("best", [0.3, 0.8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_policy_nears_the_value_that_makes_most_progress_within_120_steps(best: float, seed: int) -> None:
    controller = BetaPolicy(lowest=0.0).start(seed)
    mean = run(controller, lambda values: 1 - (values[-1] - best) ** 2, steps=120)
    assert mean == pytest.approx(best, abs=0.12)


def bait(values: list[float]) -> float:
    """A low value pays a little at once, a high one much more three steps later."""
    late = values[-4] if len(values) > 3 else 0.0
    return 0.3 * (1 - values[-1]) + 3 * late


@pytest.mark.parametrize("seed", [0, 1])
def test_an_immediate_reward_is_baited_where_progress_is_delayed_and_a_lookahead_is_not(seed: int) -> None:
    common = {"lowest": 0.0, "hold": 4, "discount": 1.0, "decisions": 8}
    hasty = BetaPolicy(lookahead=1, **common).start(seed)
    patient = BetaPolicy(lookahead=4, **common).start(seed)
    assert run(hasty, bait, steps=4000) < 0.4
    assert run(patient, bait, steps=4000) > 0.6


def test_without_a_step_size_the_policy_stays_as_it_began() -> None:
    controller = BetaPolicy(policy_lr=0.0).start(seed=0)
    assert run(controller, lambda values: values[-1], steps=60) == pytest.approx(0.5, rel=1e-12)


# --- memory ------------------------------------------------------------------------------------------------------


def test_a_controller_goes_on_from_its_state_on_disk_exactly_as_before(tmp_path: Any) -> None:
    spec, noise = BetaPolicy(hold=2, lookahead=3, decisions=2), Random(3)
    rows = [row(probe=noise.random(), answer=-noise.random()) for _ in range(40)]
    whole, first = spec.start(seed=1), spec.start(seed=1)
    expected = []
    for step, one in enumerate(rows):
        expected.append(whole.choose(step / 40))
        whole.observe(one)
    for step, one in enumerate(rows[:17]):
        first.choose(step / 40)
        first.observe(one)
    kept = checkpoint.load(checkpoint.save(tmp_path, 17, {"controllers": {"exposure": first.state()}}))
    resumed = spec.start(seed=99)
    resumed.load_state(kept["controllers"]["exposure"])
    values = []
    for step, one in enumerate(rows[17:], start=17):
        values.append(resumed.choose(step / 40))
        resumed.observe(one)
    assert values == expected[17:]


def test_starting_and_learning_leave_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    run(BetaPolicy(decisions=2).start(seed=0), lambda values: values[-1], steps=30)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    a, b, c = (BetaPolicy().start(seed).choose(0.0) for seed in (0, 0, 1))
    assert a == b != c


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"lowest": 0.9, "highest": 0.5}, "lowest"),
        ({"hold": 0}, "hold"),
        ({"lookahead": 0}, "lookahead"),
        ({"discount": 0.0}, "discount"),
        ({"decisions": 1}, "decisions"),
        ({"policy_lr": -1.0}, "policy_lr"),
        ({"smoothing": 1.0}, "smoothing"),
    ],
)
def test_an_impossible_setting_is_refused(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        BetaPolicy(**knobs)
