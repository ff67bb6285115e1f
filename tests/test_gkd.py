"""The baseline GKD: its generalized JSD, and who writes a step's answers."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax, mean_of_sequences
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.gkd import GKD
from selfteach.testing import evaluate


def kl(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (np.exp(one) * (one - other)).sum(-1)


def jsd(p: np.ndarray, q: np.ndarray, beta: float) -> np.ndarray:
    """Eq. 1 of arXiv 2306.13649, with its limits as TRL reads them."""
    if beta in (0, 1):
        return kl(p, q) if beta else kl(q, p)
    m = np.log(beta * np.exp(q) + (1 - beta) * np.exp(p))
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.9])
def test_the_loss_is_the_papers_at_every_beta(beta: float, temperature: float) -> None:
    given = arrays()
    p, q = (
        log_softmax(x, temperature) for x in (given["student_logits"], given["teacher_logits"]["teacher"])
    )
    out = evaluate("gkd", given, overrides={"beta": beta, "temperature": temperature})
    assert out["loss"] == pytest.approx(mean_of_sequences(jsd(p, q, beta), given["mask"]), rel=1e-12)


def test_preset_trl_means_over_all_tokens() -> None:
    given, trl = arrays(), recipe_named("gkd", "trl")
    p, q = (log_softmax(x, 0.9) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    expected = (jsd(p, q, 0.5) * given["mask"]).sum() / given["mask"].sum()
    assert evaluate(trl, given)["loss"] == pytest.approx(expected, rel=1e-12)
    assert trl.lmbda == 0.5  # type: ignore[attr-defined]


def test_equal_student_and_teacher_have_no_loss_and_no_gradient() -> None:
    given = arrays()
    out = evaluate("gkd", {**given, "teacher_logits": {"teacher": given["student_logits"]}})
    assert out["loss"] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-12)


def writers(recipe: GKD, steps: int = 200) -> list[str]:
    """Who wrote each step's answers."""
    written: list[str] = []
    tools: Any = SimpleNamespace(
        play=lambda prompts, n, role="student": written.append(role),
        quote=lambda prompts, field: written.append(field),
        random=lambda name, shared: Random(len(written)),
    )
    for step in range(steps):
        recipe.rollout(tools, [], step)
    return written


def test_lmbda_is_the_share_of_steps_that_the_student_writes() -> None:
    assert set(writers(GKD())) == {"student"}
    assert set(writers(GKD(lmbda=0))) == {"solution"}
    assert set(writers(GKD(lmbda=0, seq_kd=True))) == {"teacher"}
    mixed = writers(GKD(lmbda=0.3, reference="answer"))
    assert set(mixed) == {"student", "answer"}
    assert 0.2 < mixed.count("student") / len(mixed) < 0.4


@pytest.mark.parametrize(("knob", "value"), [("beta", 1.5), ("beta", -0.1), ("lmbda", 2), ("lmbda", "often")])
def test_what_cannot_be_meant_is_refused(knob: str, value: Any) -> None:
    with pytest.raises(UserError, match=knob):
        with_knobs(GKD(), {knob: value})
