"""Card 49: what the paper says learning from interactions is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import LENGTHS, VOCABULARY, arrays, log_softmax
from selfteach.recipes import recipe_named
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate

ONLINE = {"follow_up": "feedback", "skip": 0}


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def gained(given: dict[str, Any]) -> np.ndarray:
    return taken(given["teacher_logits"]["teacher"], given["ids"]) - taken(
        given["student_logits"], given["ids"]
    )


def gradient(given: dict[str, Any], advantage: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Of the mean over answers with a kept token of (1/|y|) Σ −A log π."""
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    mask = given["mask"]
    weight = kept / mask.sum(1, keepdims=True) / kept.any(1).sum()
    return -(weight * advantage)[..., None] * score


def on_policy() -> dict[str, Any]:
    given = arrays()
    given["behavior"] = taken(given["student_logits"], given["ids"])
    return given


@pytest.mark.parametrize("skip", [0, 2])
def test_offline_the_log_ratio_of_hindsight_is_the_advantage(skip: int) -> None:
    given = arrays()
    del given["behavior"], given["reward"]
    kept = given["mask"] & (np.arange(given["mask"].shape[1]) >= skip)
    out = evaluate("user-interactions", given, overrides={"skip": skip})
    np.testing.assert_allclose(out["grad"], gradient(given, gained(given), kept), atol=1e-13)


def test_online_it_is_centered_within_the_answer() -> None:
    given = on_policy()
    mask = given["mask"]
    a = gained(given)
    centered = a - ((a * mask).sum(1) / LENGTHS)[:, None]
    out = evaluate("user-interactions", given, overrides=ONLINE)
    np.testing.assert_allclose(out["grad"], gradient(given, centered, mask), atol=1e-13)
    assert np.abs((centered * mask).sum(1)).max() < 1e-12


def test_online_the_ratio_is_clipped() -> None:
    given = on_policy()
    given["behavior"] = given["behavior"] - 1.0
    a = gained(given)
    centered = a - ((a * given["mask"]).sum(1) / LENGTHS)[:, None]
    out = evaluate("user-interactions", given, overrides=ONLINE)
    assert (np.abs(out["grad"]).sum(-1)[(centered > 0) & given["mask"]] == 0).all()


@pytest.mark.parametrize("knobs", [{}, ONLINE])
def test_a_follow_up_that_says_nothing_teaches_nothing(knobs: dict[str, Any]) -> None:
    given = on_policy()
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    assert np.abs(evaluate("user-interactions", given, overrides=knobs)["grad"]).max() < 1e-15


def test_in_expectation_it_is_the_reverse_kl_to_hindsight() -> None:
    given = arrays()
    student, teacher = given["student_logits"], given["teacher_logits"]["teacher"]
    total = 0.0
    for v in range(VOCABULARY):
        one = {**given, "ids": np.full_like(given["ids"], v)}
        total = (
            total
            + np.exp(log_softmax(student))[..., v : v + 1]
            * evaluate("user-interactions", one, overrides={"skip": 0})["grad"]
        )
    p, q = log_softmax(student), log_softmax(teacher)
    reverse = np.exp(p) * (p - q - (np.exp(p) * (p - q)).sum(-1, keepdims=True))
    weight = (given["mask"] / LENGTHS[:, None] / 6)[..., None]
    np.testing.assert_allclose(total, weight * reverse, atol=1e-13)


def test_a_row_whose_follow_up_is_missing_is_left_out() -> None:
    given = arrays()
    given["available"] = {"teacher": np.array([True, True, False, True, True, True])}
    out = evaluate("user-interactions", given, overrides={"skip": 0})["grad"]
    assert not out[2].any()
    kept = given["mask"] & given["available"]["teacher"][:, None]
    np.testing.assert_allclose(out, gradient(given, gained(given), kept), atol=1e-13)


def test_the_teacher_reads_the_follow_up_behind_the_question() -> None:
    (role,) = recipe_named("user-interactions").teachers.values()
    prompt = (Message(role="user", content="Explain {x}."),)
    one = Trajectory(Example("k", prompt, {"followup": "Shorter {please}."}), [1], (), "", 0, False)
    (message,) = role.view(one, [one], {})
    assert message["content"].startswith("Explain {x}.\n\n")
    assert message["content"].endswith("\nShorter {please}.")
    assert role.view(Trajectory(Example("k", prompt, {}), [1], (), "", 0, False), [], {}) is None
