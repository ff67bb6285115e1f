"""Card 60: contraction of both operators in KL, its counter-example, fixed points, and how errors add up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import selfteach
from saved import everything
from selfteach.recipes.r60_recursive_meta import RecursiveMeta
from selfteach.testing import evaluate_outputs
from selfteach.training.classic.recursion import Generation, RecursionLearner, kl, total_variation
from selfteach.training.classic.softmax import log_probs
from selfteach.training.trainer import Settings

QUIET = {"samples_every": 0, "device": "cpu", "progress": None}
OPERATORS = pytest.mark.parametrize("operator", ["arithmetic", "geometric"])


def learner(seed: int = 0, **knobs: object) -> RecursionLearner:
    return RecursionLearner(RecursiveMeta(**knobs), Settings(device="cpu", seed=seed))


def after(one: RecursionLearner, steps: int) -> RecursionLearner:
    for step in range(steps):
        for update in one.updates(one.collect(step)):
            update.backward()
    return one


def drawn(n: int, classes: int, seed: int, sharp: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(n, classes, generator=random, dtype=torch.float64)).log_softmax(-1)


# --- operators and their contraction ------------------------------------------------------------------------------


@OPERATORS
@pytest.mark.parametrize("anchor", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("sharp", [0.3, 3.0])
def test_kl_from_the_base_falls_by_one_minus_a_at_least(operator: str, anchor: float, sharp: float) -> None:
    recipe = RecursiveMeta(operator=operator, anchor=anchor)
    p, q = drawn(400, 7, 0, sharp), drawn(400, 7, 1, sharp)
    first = kl(q, p)
    for t in range(1, 6):
        p = recipe.meta_teacher(p, q, 0)
        assert (kl(q, p) <= (1 - anchor) ** t * first + 1e-12).all()


@pytest.mark.parametrize("anchor", [0.05, 0.3, 1.0])
def test_of_the_arithmetic_mean_kl_to_the_base_and_total_variation_fall_too(anchor: float) -> None:
    recipe = RecursiveMeta(anchor=anchor)
    p, q = drawn(400, 7, 0, 3.0), drawn(400, 7, 1, 3.0)
    first, apart = kl(p, q), total_variation(p, q)
    for t in range(1, 6):
        p = recipe.meta_teacher(p, q, 0)
        assert (kl(p, q) <= (1 - anchor) ** t * first + 1e-12).all()
        torch.testing.assert_close(total_variation(p, q), (1 - anchor) ** t * apart)


def test_the_geometric_mean_has_its_closed_form() -> None:
    recipe, steps = RecursiveMeta(operator="geometric", anchor=0.3), 6
    first, q = drawn(50, 7, 0, 2.0), drawn(50, 7, 1, 2.0)
    p = first
    for _ in range(steps):
        p = recipe.meta_teacher(p, q, 0)
    torch.testing.assert_close(p, (q + 0.7**steps * (first - q)).log_softmax(-1))


def test_of_the_geometric_mean_kl_to_the_base_may_fall_by_less() -> None:
    """The counter-example: the same inequality does not hold for it in the other direction."""
    recipe = RecursiveMeta(operator="geometric", anchor=0.1)
    p, q = drawn(20_000, 7, 0, 2.0), drawn(20_000, 7, 1, 2.0)
    after_one = recipe.meta_teacher(p, q, 0)
    ratio = kl(after_one, q) / (0.9 * kl(p, q))
    assert ratio.max() > 1.05
    assert (kl(q, after_one) <= 0.9 * kl(q, p) + 1e-12).all()
    mean = RecursiveMeta(anchor=0.1).meta_teacher(p, q, 0)
    assert (kl(mean, q) <= 0.9 * kl(p, q) + 1e-12).all()


@OPERATORS
def test_the_base_is_the_fixed_point_and_without_an_anchor_every_student_is(operator: str) -> None:
    p, q = drawn(50, 7, 0), drawn(50, 7, 1)
    anchored, free = (RecursiveMeta(operator=operator, anchor=anchor) for anchor in (0.4, 0.0))
    torch.testing.assert_close(anchored.meta_teacher(q, q, 0), q)
    torch.testing.assert_close(free.meta_teacher(p, q, 0), p)
    for _ in range(80):
        p = anchored.meta_teacher(p, q, 0)
    torch.testing.assert_close(p, q)


@OPERATORS
def test_several_teachers_are_one_pool_of_all(operator: str) -> None:
    """Anchoring to the pool is pooling the student with each teacher, at a times its weight."""
    recipe = RecursiveMeta(operator=operator, anchor=0.4, teachers=3, teacher_weights=(0.5, 0.3, 0.2))
    p, base = drawn(50, 7, 0), torch.stack([drawn(50, 7, seed) for seed in (1, 2, 3)])
    together = recipe.pooled(torch.cat([p[None], base]), (0.6, 0.2, 0.12, 0.08))
    torch.testing.assert_close(recipe.meta_teacher(p, recipe.base(base), 0), together)
    by_hand = [0.5, 0.3, 0.2] @ base.exp().numpy().transpose(1, 0, 2)
    if operator == "arithmetic":
        np.testing.assert_allclose(recipe.base(base).exp(), by_hand)


def test_a_teachers_temperature_is_a_power_of_its_probabilities() -> None:
    q = drawn(1, 7, 1)[None]
    for temperature in (0.5, 1.0, 4.0):
        recipe = RecursiveMeta(teachers=1, teacher_temperature=temperature)
        power = q[0].exp() ** (1 / temperature)
        torch.testing.assert_close(recipe.base(q).exp(), power / power.sum(-1, keepdim=True))


@OPERATORS
@pytest.mark.parametrize("end", [None, 0.0, 0.6])
def test_an_anchor_that_changes_contracts_by_the_product(operator: str, end: float | None) -> None:
    one = after(learner(operator=operator, anchor=0.3, anchor_end=end, steps=6), 6)
    anchors = np.full(6, 0.3) if end is None else np.linspace(0.3, end, 6)
    assert one.kept == pytest.approx(np.prod(1 - anchors))
    assert one.evaluate("after")["eval/violation"] < 1e-12


# --- generations --------------------------------------------------------------------------------------------------


def test_the_loss_is_kl_from_the_meta_teacher_and_least_there() -> None:
    random = np.random.default_rng(0)
    m, p = random.dirichlet(np.ones(5), (2, 4))
    given = {"log_p": np.log(p), "m": m, "norm": np.array(6.0)}
    out = evaluate_outputs("recursive-meta", given, overrides={"l2": 0.5})
    assert out["losses"]["network"] == pytest.approx((m * np.log(m / p)).sum() / 4 + 1.5)
    assert out["grads"]["network"].keys() == {"log_p", "norm"}
    numeric = np.zeros_like(p)
    for at in np.ndindex(p.shape):
        moved = np.zeros_like(p)
        moved[at] = 1e-6
        high, low = (
            evaluate_outputs(
                "recursive-meta", {**given, "log_p": np.log(p) + sign * moved}, overrides={"l2": 0.5}
            )
            for sign in (1, -1)
        )
        numeric[at] = (high["losses"]["network"] - low["losses"]["network"]) / 2e-6
    np.testing.assert_allclose(out["grads"]["network"]["log_p"], numeric, atol=1e-8)
    assert evaluate_outputs("recursive-meta", {**given, "log_p": np.log(m)})["losses"]["network"] < 0.01


@OPERATORS
def test_a_table_is_fitted_exactly_and_no_proven_bound_is_violated(operator: str) -> None:
    one = learner(operator=operator, steps=8)
    for _ in range(8):
        before, seen = log_probs(one.data.test, one.weight), one.evaluate("before")
        assert seen["eval/violation"] < 1e-12
        assert {"eval/kl_reverse_bound", "eval/tv_bound"} <= seen.keys() or operator == "geometric"
        after(one, 1)
        expected = one.recipe.meta_teacher(before, one.log_q_test, 0)
        torch.testing.assert_close(log_probs(one.data.test, one.weight), expected)


@pytest.mark.parametrize(("anchor", "bound"), [(0.2, "geometric series"), (0.0, "sum")])
def test_errors_of_fits_add_up_no_further_than_is_proven(anchor: float, bound: str) -> None:
    """TV(q, p_t) ≤ (1 − a)^t TV_0 + ε/a, and without an anchor TV_0 + tε, with ε the largest error of a fit."""
    one, largest = learner(anchor=anchor, samples=300, steps=25), 0.0
    first = one.first["tv"]
    for t in range(1, 26):
        batch = one.collect(t - 1)
        one.next(batch)
        largest = max(largest, float(total_variation(batch.aim, log_probs(one.data.test, one.weight)).max()))
        error = largest / anchor if bound == "geometric series" else t * largest
        assert (one.distances()["tv"] <= one.tv_bound + 1e-12).all()
        assert (one.tv_bound <= (1 - anchor) ** t * first + error + 1e-12).all()


def test_what_is_drawn_comes_to_the_meta_teacher_as_draws_grow() -> None:
    few, many = (after(learner(samples=n, steps=1), 1) for n in (100, 1_000_000))
    aim = few.recipe.meta_teacher(few.data.first.log_softmax(-1), few.log_q, 0)
    assert kl(aim, log_probs(few.data.x, few.weight)).mean() > 0.05
    assert kl(aim, log_probs(many.data.x, many.weight)).mean() < 1e-4


def test_anchored_generations_stay_near_their_base_and_others_drift() -> None:
    anchored, free = (
        after(learner(anchor=a, samples=1000, start="base"), 30).evaluate("after") for a in (0.2, 0.0)
    )
    assert anchored["eval/headline"] < 0.1
    assert free["eval/headline"] > 4 * anchored["eval/headline"]


def test_a_classifier_is_fitted_where_its_gradient_is_zero_and_stays_off_a_base_that_it_cannot_be() -> None:
    """A mean of classifiers is none of its kind: exact generations come near, and no nearer."""
    one = after(learner(data="digits", steps=20), 20)
    batch = one.collect(0)
    one.next(batch)
    moved = one.weight.clone().requires_grad_()
    loss = one.recipe.loss(
        "network", {"log_p": log_probs(one.data.x, moved), "m": batch.m, "norm": moved.square().sum()}, 0
    )
    (gradient,) = torch.autograd.grad(loss, moved)
    assert gradient.abs().max() < 2e-6
    seen = one.evaluate("after")
    assert 0.01 < seen["eval/headline"] < 0.5
    assert seen["eval/accuracy"] > 0.85
    assert seen["eval/violation"] < 1e-9


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "knobs",
    [{"samples": 50}, {"data": "digits", "samples": 5, "smoothing": 0.1, "l2": 0.01}],
    ids=["table", "digits"],
)
def test_a_run_that_was_interrupted_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knobs: Mapping[str, object]
) -> None:
    told = {**knobs, "steps": 5, "checkpoint_every": 1, "eval_every": 1, **QUIET}
    selfteach.train("recursive-meta", out=tmp_path / "whole", **told)
    collect = RecursionLearner.collect

    def interrupted(self: RecursionLearner, step: int) -> Generation:
        if step == 3:
            raise KeyboardInterrupt
        return collect(self, step)

    monkeypatch.setattr(RecursionLearner, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        selfteach.train("recursive-meta", out=tmp_path / "cut", **told)
    monkeypatch.undo()
    selfteach.train(out=tmp_path / "cut", resume=True, progress=None)
    (saved, rows, _), (whole, metrics, _) = (everything(tmp_path / name, 5) for name in ("cut", "whole"))
    assert rows == metrics
    assert saved.keys() == whole.keys()
    assert sum(place.endswith(("/weight", "/tv_bound")) for place in saved) == 2
    for place, value in saved.items():
        assert torch.equal(value, whole[place]), place
    model = "model/softmax.safetensors"
    assert (tmp_path / "cut" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()


def test_nothing_of_it_is_placed_on_an_accelerator_which_may_lack_float64() -> None:
    assert learner().modules() == {}


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"data": "nosuch"}, "unknown"),
        ({"data": "diabetes"}, "no labels of several classes"),
        ({"teacher_weights": (0.5, 0.6)}, "with a sum of 1"),
        ({"teacher_weights": (1.0,)}, "must be 2 numbers"),
        ({"classes": 1_000_000}, "give fewer"),
        ({"contexts": 10_000, "classes": 2}, "must be at most 2000"),
        ({"anchor": 1.5}, "anchor must be at most 1"),
        ({"smoothing": 0.0}, "smoothing must be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("recursive-meta", out=tmp_path / "run", **QUIET, **knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
