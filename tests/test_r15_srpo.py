"""Card 15: what the paper says SRPO is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r15_srpo import SRPO
from selfteach.roles.sibling import Reprompt
from selfteach.roles.weights import EMA
from selfteach.testing import evaluate


def sampled(given: dict[str, Any], log_probs: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_probs, given["ids"][..., None], -1)[..., 0]


def advantages(given: dict[str, Any], deviation: bool = True) -> np.ndarray:
    reward, group = given["reward"], given["group"]
    result = np.zeros_like(reward)
    for g in np.unique(group):
        own = reward[group == g]
        result[group == g] = (own - own.mean()) / (own.std(ddof=1) + 1e-4 if deviation else 1.0)
    return result


def routed(given: dict[str, Any]) -> np.ndarray:
    right, group = given["reward"] >= 0.5, given["group"]
    sibling = [any(right[j] for j in np.where(group == group[i])[0] if j != i) for i in range(len(right))]
    return ~right & np.array(sibling)


def srpo_by_hand(given: dict[str, Any], beta: float = 1.0, k: int | None = None) -> float:
    p, q = (log_softmax(x) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    mask, z = given["mask"], routed(given)[:, None]
    ratio = np.exp(sampled(given, p) - given["behavior"])
    a = advantages(given)[:, None]
    reinforce = -np.minimum(ratio * a, np.clip(ratio, 0.8, 1.28) * a)
    entropy = -(np.exp(q) * q).sum(-1)
    weight = np.exp(-beta * entropy)
    weight = weight / weight[mask & z].mean()
    if k is not None:
        top = np.argsort(-p, axis=-1)[..., :k]
        p, q = (np.take_along_axis(x, top, -1) for x in (p, q))
        p, q = (np.concatenate([x, np.log1p(-np.exp(x).sum(-1, keepdims=True))], -1) for x in (p, q))
    m = np.log((np.exp(p) + np.exp(q)) / 2)
    jsd = ((np.exp(p) * (p - m)).sum(-1) + (np.exp(q) * (q - m)).sum(-1)) / 2
    distill = weight * np.minimum(ratio, 2.0) * jsd
    return float((np.where(z, distill, reinforce) * mask).sum() / mask.sum())


def eight(*right: int) -> dict[str, Any]:
    """One group of eight rollouts, those named being right."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(8, 5, VOCABULARY))
    given = {
        "ids": rng.integers(VOCABULARY, size=(8, 5)),
        "mask": np.arange(5) < rng.integers(1, 6, size=8)[:, None],
        "student_logits": logits,
        "teacher_logits": {"teacher": rng.normal(size=logits.shape)},
        "group": np.zeros(8, dtype=int),
        "reward": np.isin(np.arange(8), right).astype(float),
    }
    return {**given, "behavior": sampled(given, log_softmax(logits))}


# --- the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, 4])
def test_the_loss_is_the_papers_two_routed_sums_over_one_denominator(k: int | None) -> None:
    given = arrays()
    loss = evaluate("srpo", given, overrides={"student_top_k": k})["loss"]
    assert loss == pytest.approx(srpo_by_hand(given, k=k), rel=1e-10)


def test_the_default_keeps_a_small_vocabulary_whole() -> None:
    given = arrays()
    assert evaluate("srpo", given)["loss"] == pytest.approx(srpo_by_hand(given), rel=1e-10)


def test_the_gradient_is_that_of_finite_differences_with_the_weights_held_fixed() -> None:
    given = arrays()
    given["behavior"] = given["behavior"] - 30.0  # far beyond the cap: the ratio's weight is the constant 2
    gradient = evaluate("srpo", given)["grad"]
    distilled = np.where(routed(given))[0]
    rng = np.random.default_rng(1)
    places = [
        (int(rng.choice(distilled)), *(int(rng.integers(n)) for n in gradient.shape[1:])) for _ in range(8)
    ]

    def loss(moved: np.ndarray) -> float:
        return evaluate("srpo", {**given, "student_logits": moved})["terms"]["distill"]

    for i, slope in slopes(given["student_logits"], loss, places):
        assert slope == pytest.approx(gradient[i], abs=1e-8)


# --- the routes --------------------------------------------------------------------------------------------------


def test_a_token_belongs_to_one_branch_or_the_other_and_never_both() -> None:
    given = arrays()
    token = evaluate("srpo", given)["token"]
    looked = [~np.isnan(token[name]) for name in ("loss/reinforce", "loss/distill")]
    z = routed(given)
    assert (looked[1][given["mask"]] == np.broadcast_to(z[:, None], given["mask"].shape)[given["mask"]]).all()
    grads = evaluate("srpo", given)["grad"]
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"] + 0.1 * np.arange(13)}}
    moved = np.abs(evaluate("srpo", other)["grad"] - grads).max((1, 2)) > 1e-6
    assert (moved == z).all()


def test_an_all_right_batch_is_grpo_with_a_token_mean() -> None:
    given = {**arrays(), "reward": np.array([1.0, 0.8, 0.6, 0.5, 0.9, 0.7])}
    grpo = evaluate("grpo", given, overrides={"kl": 0.0, "clip_high": 0.28, "mean_over": "tokens"})
    srpo = evaluate("srpo", given)
    assert srpo["loss"] == pytest.approx(grpo["loss"], rel=1e-12)
    np.testing.assert_allclose(srpo["grad"], grpo["grad"], atol=1e-14)


def test_an_all_wrong_group_gives_no_gradient() -> None:
    given = eight()
    assert (evaluate("srpo", given)["grad"] == 0).all()


def test_one_right_rollout_of_eight_is_reinforced_and_seven_are_distilled() -> None:
    given = eight(2)
    token = evaluate("srpo", given)["token"]
    reinforced, distilled = (
        (~np.isnan(token[name])) & (np.nan_to_num(token[name]) != 0)
        for name in ("loss/reinforce", "loss/distill")
    )
    assert np.where(reinforced.any(1))[0].tolist() == [2]
    assert np.where(distilled.any(1))[0].tolist() == [0, 1, 3, 4, 5, 6, 7]


def test_the_advantage_is_of_the_whole_group_though_some_of_it_is_distilled() -> None:
    given = eight(2)
    token = evaluate("srpo", given)["token"]["loss/reinforce"]
    expected = -advantages(given)[2]
    np.testing.assert_allclose(token[2][given["mask"][2]], expected, rtol=1e-10)


def test_a_wrong_rollout_whose_teacher_saw_nothing_is_reinforced() -> None:
    given = {**eight(2), "available": {"teacher": np.arange(8) != 5}}
    token = evaluate("srpo", given)["token"]
    assert np.isnan(token["loss/distill"][5]).all()
    assert np.nan_to_num(token["loss/reinforce"][5]).any()


@pytest.mark.parametrize(("route", "rows"), [("right", [2, 6]), ("all", list(range(8)))])
def test_the_ablations_route_right_rollouts_with_another_right_one(route: str, rows: list[int]) -> None:
    token = evaluate("srpo", eight(2, 6), overrides={"route": route})["token"]["loss/distill"]
    assert np.where((~np.isnan(token)).any(1))[0].tolist() == rows
    alone = evaluate("srpo", eight(2), overrides={"route": "right"})
    assert alone["terms"]["distill"] == 0


# --- the weights -------------------------------------------------------------------------------------------------


def weights(given: dict[str, Any], **knobs: Any) -> np.ndarray:
    """w of the distilled tokens: the weighted loss's gradient over the unweighted one's."""
    a, b = (
        evaluate("srpo", given, overrides={**knobs, "beta": beta})["grad"] for beta in (knobs["beta"], 0.0)
    )
    rows = given["mask"] & routed(given)[:, None]
    return np.abs(a[rows]).sum(-1) / np.abs(b[rows]).sum(-1)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_the_weights_have_mean_1_over_the_distilled_tokens(beta: float) -> None:
    w = weights(eight(2), beta=beta)
    assert w.mean() == pytest.approx(1, rel=1e-9)
    assert w.std() > 0.05


def test_the_surer_the_teacher_the_heavier_the_token() -> None:
    given = eight(2)
    q = log_softmax(given["teacher_logits"]["teacher"])
    entropy = -(np.exp(q) * q).sum(-1)[given["mask"] & routed(given)[:, None]]
    order = np.argsort(entropy)
    assert (np.diff(weights(given, beta=1.0)[order]) < 0).all()


def test_beta_0_weighs_all_tokens_alike() -> None:
    given = arrays()
    loss = evaluate("srpo", given, overrides={"beta": 0.0})["loss"]
    assert loss == pytest.approx(srpo_by_hand(given, beta=0.0), rel=1e-10)


def test_equal_entropies_weigh_all_tokens_alike_whatever_beta_is() -> None:
    given = eight(2)
    spread = np.linspace(-2, 2, VOCABULARY)
    given["teacher_logits"] = {"teacher": np.broadcast_to(spread, given["student_logits"].shape).copy()}
    a, b = (evaluate("srpo", given, overrides={"beta": beta})["grad"] for beta in (0.0, 4.0))
    np.testing.assert_allclose(a, b, atol=1e-13)


def test_padding_and_the_order_of_rows_change_nothing() -> None:
    given = arrays()
    loss = evaluate("srpo", given)["loss"]
    names = ("ids", "mask", "student_logits", "behavior", "group", "reward")
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = {name: given[name][order] for name in names}
    shuffled["teacher_logits"] = {"teacher": given["teacher_logits"]["teacher"][order]}
    assert evaluate("srpo", shuffled)["loss"] == pytest.approx(loss, rel=1e-12)

    def wide(x: np.ndarray) -> np.ndarray:
        return np.pad(x, [(0, 0), (0, 4)] + [(0, 0)] * (x.ndim - 2)) if x.ndim >= 2 else x

    padded = {name: wide(given[name]) for name in names}
    padded["teacher_logits"] = {"teacher": wide(given["teacher_logits"]["teacher"])}
    assert evaluate("srpo", padded)["loss"] == pytest.approx(loss, rel=1e-12)


# --- settings ----------------------------------------------------------------------------------------------------


def test_the_teacher_is_an_average_that_reads_a_sibling_and_no_feedback() -> None:
    teacher = SRPO().teachers["teacher"]
    assert teacher.weights == EMA(0.95, from_start=True)
    assert teacher.view == Reprompt(sibling=True, feedback="never", own_success=False, readers="wrong")


def test_the_default_holds_the_papers_values() -> None:
    paper = recipe_named("srpo")
    assert isinstance(paper, SRPO)
    assert (paper.beta, paper.alpha, paper.student_top_k, paper.is_clip) == (1.0, 0.5, 100, 2.0)
    assert (paper.grpo.clip_low, paper.grpo.clip_high, paper.update_rate) == (0.2, 0.28, 0.05)
    assert (paper.optimization.lr, paper.optimization.warmup, paper.optimization.prompts) == (5e-6, 10, 32)
    assert (paper.rollouts.per_prompt, paper.rollouts.max_tokens) == (8, 8192)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"per_prompt": 1}, "per_prompt"),
        ({"beta": -1.0}, "beta"),
        ({"alpha": 2.0}, "alpha"),
        ({"update_rate": 1.5}, "update_rate"),
        ({"is_clip": 0.0}, "is_clip"),
        ({"clip_low": 1.0}, "clip_low"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(SRPO(), knobs)
