"""Card 19: what several views agree on, and a gated residual that never turns its sign."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r19_avsd import AVSD
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

TAU, EPS = 0.7, 1e-8
VIEWS = ("solution", "partial", "answer")


def batch(views: tuple[str, ...] = VIEWS, seed: int = 0) -> dict[str, Any]:
    return arrays(seed, teachers=views)


def log_probs(given: dict[str, Any], views: tuple[str, ...] = VIEWS) -> tuple[np.ndarray, np.ndarray]:
    """[N, T, V] of the student and [M, N, T, V] of the views, at the sampling temperature."""
    q = np.stack([log_softmax(given["teacher_logits"][name], TAU) for name in views])
    return log_softmax(given["student_logits"], TAU), q


def gated(p: np.ndarray, q: np.ndarray, log_g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(λ J, A_G) by the card's formulas: A_G is the mean of the Δ_m, whether or not q_G was renormalized."""
    a_g, log_a = (q - p).mean(0), np.log(np.exp(q).mean(0))
    j = np.maximum(0, log_a - log_g)
    c = np.abs(a_g) / (np.abs(q - p).mean(0) + EPS)
    return c * np.abs(a_g) / (np.abs(a_g) + j + EPS) * j, a_g


def of_sampled(given: dict[str, Any], values: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, given["ids"][..., None], -1)[..., 0]


def policy_gradient(given: dict[str, Any], advantage: np.ndarray) -> np.ndarray:
    """d/d logits of the mean over tokens of −A log p(y) at the sampling temperature."""
    p = np.exp(log_softmax(given["student_logits"], TAU))
    score = (np.eye(VOCABULARY)[given["ids"]] - p) / TAU
    weight = given["mask"] / given["mask"].sum()
    return -(weight * advantage)[..., None] * score


def test_the_default_is_the_sampled_policy_gradient_to_the_gated_consensus() -> None:
    given = batch()
    p, q = log_probs(given)
    extra, a_g = gated(p, q, q.mean(0))
    advantage = of_sampled(given, a_g + extra)
    out = evaluate("avsd", given)
    expected = -(given["mask"] * advantage * of_sampled(given, p)).sum() / given["mask"].sum()
    assert out["loss"] == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(out["grad"], policy_gradient(given, advantage), atol=1e-12)


def test_without_residual_it_is_the_geometric_and_with_all_of_it_the_arithmetic_mean() -> None:
    given = batch()
    p, q = log_probs(given)
    for pooling, target in (("geometric", q.mean(0)), ("arithmetic", np.log(np.exp(q).mean(0)))):
        out = evaluate("avsd", given, overrides={"pooling": pooling})
        expected = policy_gradient(given, of_sampled(given, target - p))
        np.testing.assert_allclose(out["grad"], expected, atol=1e-12)


def test_the_residual_never_turns_the_sign_that_the_consensus_gives_a_token() -> None:
    turned = 0
    for seed in range(10):
        given = batch(seed=seed)
        grads = {
            pooling: np.take_along_axis(
                evaluate("avsd", given, overrides={"pooling": pooling})["grad"],
                given["ids"][..., None],
                -1,
            )[given["mask"]]
            for pooling in ("gated", "geometric", "arithmetic")
        }
        assert (np.sign(grads["gated"]) == np.sign(grads["geometric"])).all()
        turned += (np.sign(grads["arithmetic"]) != np.sign(grads["geometric"])).sum()
    assert turned > 0  # The arithmetic mean does: it follows one loud view.


def test_a_loud_misleading_view_makes_a_wrong_token_positive_only_under_the_arithmetic_mean() -> None:
    wrong, student = 2, np.zeros((1, 1, 4))
    against, loud = student.copy(), student.copy()
    against[..., wrong], loud[..., wrong] = -4.0, 6.0
    given = {
        "ids": np.array([[wrong]]),
        "mask": np.array([[True]]),
        "student_logits": student,
        "teacher_logits": {"solution": against, "partial": against, "answer": loud},
    }
    pushed_up = {
        pooling: evaluate("avsd", given, overrides={"pooling": pooling})["grad"][0, 0, wrong] < 0
        for pooling in ("gated", "geometric", "arithmetic")
    }
    assert pushed_up == {"gated": False, "geometric": False, "arithmetic": True}


@pytest.mark.parametrize("pooling", ["gated", "geometric", "arithmetic"])
def test_one_view_in_expectation_is_the_gradient_of_reverse_kl_to_it(pooling: str) -> None:
    given = batch(("solution",))
    p, (q,) = log_probs(given, ("solution",))
    knobs = {"views": ("solution",), "pooling": pooling}
    mean = np.zeros_like(p)
    for token in range(VOCABULARY):
        ids = np.full_like(given["ids"], token)
        mean += np.exp(p[..., [token]]) * evaluate("avsd", {**given, "ids": ids}, overrides=knobs)["grad"]
    kl = (np.exp(p) * (p - q)).sum(-1, keepdims=True)
    expected = np.exp(p) * (p - q - kl) / TAU * given["mask"][..., None] / given["mask"].sum()
    np.testing.assert_allclose(mean, expected, atol=1e-12)


@pytest.mark.parametrize("knobs", [{}, {"view_top_k": 3}, {"view_top_k": 4, "beta": 1.0}])
def test_views_that_all_agree_with_the_student_give_no_gradient(knobs: dict[str, Any]) -> None:
    given = batch()
    given["teacher_logits"] = {name: given["student_logits"].copy() for name in VIEWS}
    np.testing.assert_allclose(evaluate("avsd", given, overrides=knobs)["grad"], 0, atol=1e-9)


@pytest.mark.parametrize("knobs", [{}, {"view_top_k": 3}])
@pytest.mark.parametrize("view", VIEWS)
def test_changing_any_view_changes_the_gradient(view: str, knobs: dict[str, Any]) -> None:
    given = batch()
    moved = {**given["teacher_logits"], view: given["teacher_logits"][view] + np.arange(VOCABULARY) * 0.1}
    a, b = (evaluate("avsd", x, overrides=knobs)["grad"] for x in (given, {**given, "teacher_logits": moved}))
    assert np.abs(a - b).max() > 1e-4


@pytest.mark.parametrize("knobs", [{}, {"view_top_k": 3}])
def test_a_rollout_that_lacks_a_view_is_left_out(knobs: dict[str, Any]) -> None:
    given = {**batch(), "available": {"partial": np.array([True, False, True, True, True, True])}}
    gradient = evaluate("avsd", given, overrides=knobs)["grad"]
    assert (gradient[1] == 0).all()
    assert np.abs(gradient[0]).max() > 0


@pytest.mark.parametrize("knobs", [{}, {"view_top_k": 3}])
def test_neither_padding_nor_the_order_of_rollouts_matters(knobs: dict[str, Any]) -> None:
    given, order = batch(), np.array([3, 1, 5, 0, 2, 4])

    def arranged(values: np.ndarray) -> np.ndarray:
        return np.pad(values[order], [(0, 0), (0, 3)] + [(0, 0)] * (values.ndim - 2))

    other = {name: arranged(given[name]) for name in ("ids", "mask", "student_logits")}
    other["teacher_logits"] = {name: arranged(x) for name, x in given["teacher_logits"].items()}
    a, b = (evaluate("avsd", x, overrides=knobs) for x in (given, other))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-12)
    np.testing.assert_allclose(b["grad"][:, : given["ids"].shape[1]], a["grad"][order], atol=1e-14)


# --- on candidates -----------------------------------------------------------------------------------------------


def candidates(given: dict[str, Any], q: np.ndarray, k: int) -> np.ndarray:
    """[N, T, V] True on the union of each view's k likeliest tokens and the sampled one."""
    kept = np.eye(VOCABULARY, dtype=bool)[given["ids"]]
    for one in q:
        np.put_along_axis(kept, np.argsort(-one, -1)[..., :k], True, -1)
    return kept


def on(kept: np.ndarray, x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return x - np.log(np.where(kept, np.exp(x), 0).sum(-1, keepdims=True))


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_on_candidates_everybody_is_renormalized_before_the_target_is_formed(
    beta: float, clip: float | None
) -> None:
    given = batch()
    p, q = log_probs(given)
    kept = candidates(given, q, 3)
    p, q = on(kept, p), np.stack([on(kept, one) for one in q])
    log_g = on(kept, q.mean(0))
    target = on(kept, log_g + gated(p, q, log_g)[0])
    top, bottom = (p, target) if beta else (target, p)
    per_token = np.where(kept, np.exp(top) * (top - bottom), 0).sum(-1)
    if clip is not None:
        assert (per_token > clip).any()
        per_token = np.minimum(per_token, clip)
    expected = (per_token * given["mask"]).sum() / given["mask"].sum()
    knobs = {"view_top_k": 3, "beta": beta, "clip_token": clip}
    assert evaluate("avsd", given, overrides=knobs)["loss"] == pytest.approx(expected, rel=1e-10)


def test_all_tokens_as_candidates_of_one_view_are_the_forward_kl_to_it() -> None:
    given = batch(("solution",))
    p, (q,) = log_probs(given, ("solution",))
    knobs = {"views": ("solution",), "view_top_k": VOCABULARY}
    kl = (np.exp(q) * (q - p)).sum(-1)
    expected = (kl * given["mask"]).sum() / given["mask"].sum()
    assert evaluate("avsd", given, overrides=knobs)["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("pooling", ["geometric", "arithmetic"])
def test_the_ablations_on_candidates_pool_geometrically_or_arithmetically(pooling: str) -> None:
    given = batch()
    p, q = log_probs(given)
    kept = candidates(given, q, 2)
    p, q = on(kept, p), np.stack([on(kept, one) for one in q])
    target = on(kept, q.mean(0)) if pooling == "geometric" else np.log(np.exp(q).mean(0))
    per_token = np.where(kept, np.exp(target) * (target - p), 0).sum(-1)
    expected = (per_token * given["mask"]).sum() / given["mask"].sum()
    loss = evaluate("avsd", given, overrides={"view_top_k": 2, "pooling": pooling})["loss"]
    assert loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_with_one_view_the_gradient_on_candidates_is_that_of_finite_differences(beta: float) -> None:
    given = batch(("solution",))
    knobs = {"views": ("solution",), "view_top_k": 3, "beta": beta}
    gradient = evaluate("avsd", given, overrides=knobs)["grad"]
    kept = candidates(given, log_probs(given, ("solution",))[1], 3)
    assert (gradient[~kept] == 0).all()

    def loss(moved: np.ndarray) -> float:
        return evaluate("avsd", {**given, "student_logits": moved}, overrides=knobs)["loss"]

    places = [tuple(x) for x in np.argwhere(kept & given["mask"][..., None])[::9]]
    for i, slope in slopes(given["student_logits"], loss, places):
        assert slope == pytest.approx(gradient[i], abs=1e-8)


# --- views, settings ---------------------------------------------------------------------------------------------


def test_each_view_reads_its_own_part_of_the_privilege() -> None:
    private = {"solution": "One.\n\nTwo \\boxed{7}.\n\nThree.\n\nFour.", "answer": "7", "hint": "Count!"}
    example = Example("k", (Message(role="user", content="3+4?"),), private)
    one = Trajectory.written(example, [1], [2], "7", group=0, finished=True)
    recipe = with_knobs(AVSD(), {"views": (*VIEWS, "hint")})
    shown = {}
    for name, teacher in recipe.teachers.items():
        messages = teacher.view(one, [one], {})
        assert messages is not None
        shown[name] = messages[-1]["content"]
    assert "Four." in shown["solution"]
    assert "Two …" in shown["partial"]
    assert "Three." not in shown["partial"]
    assert "7" not in shown["partial"]
    assert "answer is 7" in shown["answer"]
    assert "One." not in shown["answer"]
    assert "Count!" in shown["hint"]


def test_the_presets_hold_the_papers_values() -> None:
    paper = recipe_named("avsd")
    assert isinstance(paper, AVSD)
    drawn, moved, adapter = paper.rollouts, paper.optimization, paper.adapter
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_tokens) == (0.7, 0.95, 20, 4096)
    assert (moved.lr, moved.max_grad_norm, moved.prompts, moved.steps) == (5e-6, 0.1, 32, 500)
    assert (adapter.lora_rank, adapter.lora_alpha) == (64, 128)
    assert (paper.views, paper.partial_share, paper.temperature) == (VIEWS, 0.5, 0.7)
    assert (paper.student_thinking, paper.teacher_thinking) == (False, True)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"views": ()}, "views"),
        ({"views": ("answer", "answer")}, "each once"),
        ({"views": ("student",)}, "student"),
        ({"partial_share": 1.0}, "partial_share"),
        ({"beta": 0.5}, "--view-top-k"),
        ({"clip_token": 1.0}, "--view-top-k"),
        ({"view_top_k": 0}, "view_top_k"),
        ({"view_top_k": 3, "beta": 2.0}, "beta"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(AVSD(), knobs)
