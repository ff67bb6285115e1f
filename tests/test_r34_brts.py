"""Card 34: what the paper says BRTS is, in numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax, slopes
from doors import run_of_recipe
from selfteach.recipes import RECIPES, with_knobs
from selfteach.recipes.r34_brts import BRTS, overlap
from selfteach.task.example import Example, Grade, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

K = 4
OWN = ("student", "student", "teacher", "student", "student", "hinted")


def batch(seed: int = 0) -> dict[str, Any]:
    given = arrays(seed)
    given["origin"] = OWN
    given["numbers"] = {"own_length": np.array([9, 9, 5, 2, 6, 2.0])}
    return given


def likely(log_p: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros(log_p.shape, dtype=bool)
    np.put_along_axis(kept, np.argsort(-log_p, -1)[..., :k], True, -1)
    return kept


def parts(
    given: dict[str, Any], k: int = K, logits: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """([N, T] Σ_S w (log p − log q), [N, T] the normalized reverse KL on S); S is that of the batch's own logits."""
    kept = likely(log_softmax(given["student_logits"]), k)
    log_p = log_softmax(given["student_logits"] if logits is None else logits)
    log_q = log_softmax(given["teacher_logits"]["teacher"])
    p, q = np.exp(log_p) * kept, np.exp(log_q) * kept
    w = p / p.sum(-1, keepdims=True)
    first = (w * (log_p - log_q)).sum(-1)
    theirs = q / q.sum(-1, keepdims=True)
    second = np.where(kept, w * (np.log(np.where(kept, w, 1)) - np.log(np.where(kept, theirs, 1))), 0).sum(-1)
    return first, second


def masks(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    own = np.array([origin == "student" for origin in OWN])[:, None] & given["mask"]
    within = np.arange(9) < given["numbers"]["own_length"][:, None]
    return own, ~np.array([origin == "student" for origin in OWN])[:, None] & given["mask"] & within


def test_the_loss_is_the_cards() -> None:
    given = batch()
    own, theirs = masks(given)
    first, second = parts(given)
    out = evaluate("brts", given, overrides={"loss_top_k": K})
    assert out["terms"]["distill"] == pytest.approx(first[own].mean(), rel=1e-12)
    assert out["terms"]["selected"] == pytest.approx(0.05 * second[theirs].mean(), rel=1e-12)
    assert theirs.sum() == 5 + 2


def test_the_students_branch_is_a_policy_gradient_on_its_likeliest_tokens() -> None:
    """grad = Σ_S w_k (log p_k − log q_k) ∇log p_k, w detached."""
    given = batch()
    own, _ = masks(given)
    kept = likely(log_softmax(given["student_logits"]), K)
    base = np.exp(log_softmax(given["student_logits"])) * kept
    w = base / base.sum(-1, keepdims=True)
    gap = log_softmax(given["student_logits"]) - log_softmax(given["teacher_logits"]["teacher"])

    def surrogate(logits: np.ndarray) -> float:
        return float((w * gap * log_softmax(logits)).sum(-1)[own].mean())

    out = evaluate("brts", given, overrides={"loss_top_k": K, "teacher_weight": 0.0})["grad"]
    for place, slope in slopes(given["student_logits"], surrogate):
        assert slope == pytest.approx(out[place], abs=1e-8)


def test_the_teachers_branch_is_a_divergence_whose_gradient_knows_the_teacher() -> None:
    given = batch()
    _, theirs = masks(given)
    both, alone = (
        evaluate("brts", given, overrides={"loss_top_k": K, "teacher_weight": weight})["grad"]
        for weight in (0.05, 0.0)
    )
    out = both - alone
    for place, slope in slopes(
        given["student_logits"], lambda moved: 0.05 * float(parts(given, logits=moved)[1][theirs].mean())
    ):
        assert slope == pytest.approx(out[place], abs=1e-8)
    other = batch()
    other["teacher_logits"]["teacher"] = -other["teacher_logits"]["teacher"]
    moved = evaluate("brts", other, overrides={"loss_top_k": K})["grad"]
    assert np.abs((moved - both)[theirs]).max() > 1e-4
    same = {**given, "teacher_logits": {"teacher": given["student_logits"]}}
    np.testing.assert_allclose(evaluate("brts", same, overrides={"loss_top_k": K})["grad"], 0, atol=1e-14)


def test_over_the_whole_vocabulary_it_is_the_exact_reverse_kl() -> None:
    given = batch()
    own, _ = masks(given)
    log_p, log_q = log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])
    p = np.exp(log_p)
    kl = (p * (log_p - log_q)).sum(-1, keepdims=True)
    expected = p * (log_p - log_q - kl) * own[..., None] / own.sum()
    for k in (13, None):
        out = evaluate("brts", given, overrides={"loss_top_k": k, "teacher_weight": 0.0})
        np.testing.assert_allclose(out["grad"], expected, atol=1e-13)


def test_forward_is_on_the_teachers_likeliest() -> None:
    given = batch()
    _, theirs = masks(given)
    log_p, log_q = log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])
    kept = likely(log_q, K)
    p, q = np.exp(log_p) * kept, np.exp(log_q) * kept
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    kl = np.where(kept, q * (np.log(np.where(kept, q, 1)) - np.log(np.where(kept, p, 1))), 0).sum(-1)
    out = evaluate("brts", given, overrides={"loss_top_k": K, "auxiliary": "forward"})
    assert out["terms"]["selected"] == pytest.approx(0.05 * kl[theirs].mean(), rel=1e-12)


# --- selection


def answer(ids: list[int], right: bool) -> Trajectory:
    example = Example("x", (Message(role="user", content="?"),))
    one = Trajectory.written(example, [1], ids, "", group=0, finished=True)
    return replace(one, grade=Grade(float(right)))


LIKELY = [[{1, 2}, {3}, {4}], [{1}, {3}, {9}]]


def test_right_comes_before_close_and_hinted_before_wrong() -> None:
    far_right, close_wrong, close_right = (
        answer([8, 8, 8], True),
        answer([1, 3, 4], False),
        answer([1, 3, 8], True),
    )
    chosen = BRTS().chosen
    assert chosen([close_wrong, far_right], [], LIKELY) is far_right
    assert chosen([close_wrong, far_right, close_right], [], LIKELY) is close_right
    assert chosen([close_wrong], [far_right], LIKELY) is far_right
    assert chosen([answer([8], False), close_wrong], [answer([8], False)], LIKELY) is close_wrong
    assert BRTS(fallback="skip").chosen([close_wrong], [], LIKELY) is None
    assert BRTS(select="first").chosen([close_wrong, far_right], [], LIKELY) is close_wrong


def test_overlap_is_the_share_of_tokens_that_the_student_might_have_written_there() -> None:
    assert overlap([1, 3, 4], LIKELY) == pytest.approx((1 + 2 / 3) / 2)
    assert overlap([8, 3], LIKELY) == pytest.approx(0.5)
    assert overlap([1, 3, 9, 7, 7], LIKELY) == pytest.approx((2 / 3 + 1) / 2)
    assert overlap([], LIKELY) == 0


def test_a_step_writes_an_answer_of_the_teacher_to_each_prompt(tiny: str, tmp_path: Path) -> None:
    knobs = {"teacher": tiny, "max_tokens": 6, "prompts": 2, "student_thinking": None, "loss_top_k": 3}
    recipe = with_knobs(RECIPES["brts"](), knobs)
    _, learner = run_of_recipe(recipe, tiny, tmp_path)
    rows = recipe.rollout(learner.writing.tools(0), learner.writing.prompts.take(2), 0)
    assert [one.origin for one in rows[:4]] == ["student"] * 4
    assert {one.origin for one in rows[4:]} <= {"teacher", "hinted"}
    assert [one.group for one in rows[4:]] == [rows[0].group, rows[2].group]
    for one in rows:
        own = [len(other.ids) for other in rows[:4] if other.group == one.group]
        assert one.numbers["own_length"] == max(own)
    assert len(learner.collect(0).rows) == 6
