"""MiniLLM: the policy gradient of the sequence's reverse KL, its decomposition, and who writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.minillm import MiniLLM
from selfteach.testing import evaluate


def sampled(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """[N, T] log-probs of the tokens by student and teacher."""
    both = (log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"]))
    return tuple(np.take_along_axis(x, given["ids"][..., None], -1)[..., 0] for x in both)  # type: ignore[return-value]


def expected(given: dict[str, Any], alpha: float, normalized: bool) -> float:
    """The loss of both parts by plain loops: token mean of w KL − min(w R, clip(w) R)."""
    q, p = log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"]["teacher"])
    total = 0.0
    for n, written in enumerate(given["mask"].sum(1)):
        tokens = given["ids"][n]
        reward = [p[n, t, tokens[t]] - q[n, t, tokens[t]] for t in range(written)]
        for t in range(written):
            chance, theirs = np.exp(q[n, t, tokens[t]]), np.exp(p[n, t, tokens[t]])
            w = chance / (alpha * theirs + (1 - alpha) * chance)
            behind = reward[t + 1 :]
            r = sum(behind) / (max(1, len(behind)) if normalized else 1)
            kl = float((np.exp(q[n, t]) * (q[n, t] - p[n, t])).sum())
            total += w * kl - min(w * r, float(np.clip(w, 0.8, 1.2)) * r)
    return total / given["mask"].sum()


@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.7])
@pytest.mark.parametrize("normalized", [True, False])
def test_the_loss_is_the_papers_in_both_parts(alpha: float, normalized: bool) -> None:
    given = arrays()
    out = evaluate("minillm", given, overrides={"teacher_mix": alpha, "length_normalization": normalized})
    assert out["loss"] == pytest.approx(expected(given, alpha, normalized), rel=1e-10)


def test_the_two_parts_together_are_the_gradient_of_the_sequences_reverse_kl() -> None:
    """Over all sequences of two tokens, each drawn by the student: the mean of the estimate is the exact gradient."""
    rng = np.random.default_rng(0)
    size = 3
    first, second = (
        rng.normal(size=size),
        rng.normal(size=(size, size)),
    )  # the student's logits, by the first token
    theirs = (rng.normal(size=size), rng.normal(size=(size, size)))

    def reverse_kl(first: np.ndarray) -> float:
        q1, q2, p1, p2 = (log_softmax(x) for x in (first, second, *theirs))
        return float(sum(
            np.exp(q1[a] + q2[a, b]) * (q1[a] + q2[a, b] - p1[a] - p2[a, b])
            for a in range(size) for b in range(size)
        ))  # fmt: skip

    rows = [(a, b) for a in range(size) for b in range(size)]
    given = {
        "ids": np.array(rows), "mask": np.ones((len(rows), 2), dtype=bool),
        "student_logits": np.array([[first, second[a]] for a, _ in rows]),
        "teacher_logits": {"teacher": np.array([[theirs[0], theirs[1][a]] for a, _ in rows])},
        "behavior": np.zeros((len(rows), 2)),
    }  # fmt: skip
    knobs = {"teacher_mix": 0.0, "length_normalization": False, "mean_over": "rollouts"}
    for single in (True, False):
        gradient = evaluate("minillm", given, overrides={**knobs, "single_step": single})["grad"][:, 0]
        chance = [np.exp(log_softmax(first)[a] + log_softmax(second[a])[b]) for a, b in rows]
        ours = len(rows) * sum(c * row for c, row in zip(chance, gradient, strict=True))
        for v in range(size):
            step = 1e-6 * np.eye(size)[v]
            slope = (reverse_kl(first + step) - reverse_kl(first - step)) / 2e-6
            assert ours[v] == pytest.approx(slope, abs=1e-7)


def test_equal_student_and_teacher_have_no_loss_and_no_gradient() -> None:
    given = arrays()
    out = evaluate("minillm", {**given, "teacher_logits": {"teacher": given["student_logits"]}})
    assert out["loss"] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-12)


def test_a_discount_of_nothing_leaves_the_token_itself() -> None:
    """As TRL's gamma 0: without the single step the advantage is log p/q of the token."""
    given = arrays()
    q, p = sampled(given)
    overrides = {"teacher_mix": 0.0, "single_step": False, "discount": 0.0}
    grad = evaluate("minillm", given, overrides=overrides)["grad"]
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    by_hand = -(p - q)[..., None] * score * given["mask"][..., None] / given["mask"].sum()
    np.testing.assert_allclose(grad, by_hand, atol=1e-12)


def test_the_teacher_writes_its_share_of_the_tokens_and_none_at_0() -> None:
    asked: list[Any] = []
    tools: Any = SimpleNamespace(
        sample=lambda prompts, n: asked.append(("sample", n)),
        mix=lambda prompts, shares, **options: asked.append((list(prompts), shares, options)),
    )
    one = with_knobs(MiniLLM(), {"per_prompt": 2, "temperature": 0.7})
    one.rollout(tools, ["a", "b"], 0)  # type: ignore[list-item]
    with_knobs(one, {"teacher_mix": 0.0}).rollout(tools, ["a"], 0)  # type: ignore[list-item]
    options = {"temperature": 0.7, "top_k": 0}
    assert asked == [(["a", "a", "b", "b"], {"teacher": 0.2, "student": 0.8}, options), ("sample", 2)]


@pytest.mark.parametrize("change", [{"teacher_mix": 1.0}, {"top_p": 0.9}, {"discount": 1.5}, {"clip": 0}])
def test_what_cannot_be_meant_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        with_knobs(MiniLLM(), change)
