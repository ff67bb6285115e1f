"""Card 08: what the paper says the E-step and the M-step of VPD are, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from arrays import VOCABULARY, arrays, log_softmax
from runs import run_of
from selfteach.errors import UserError
from selfteach.objective.batch import STUDENT
from selfteach.recipes import Recipe, recipe_named, with_knobs
from selfteach.testing import evaluate
from selfteach.training.text.update import TextBatch

BETA, TEACHER, REFERENCE = 0.3, "teacher", "reference"
E_STEP: dict[str, Any] = {"beta": BETA}


def taken(logits: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    """[N, T] log-probs of the tokens, 0 where none was written."""
    found = np.take_along_axis(log_softmax(logits), given["ids"][..., None], -1)[..., 0]
    return np.where(given["mask"], found, 0.0)


def rho(given: dict[str, Any]) -> np.ndarray:
    """[N] β log q(y|x,C)/π(y|x)."""
    teacher, student = given["teacher_logits"][TEACHER], given["student_logits"]
    return BETA * (taken(teacher, given) - taken(student, given)).sum(1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def expected_loss(reward: np.ndarray, right: np.ndarray) -> float:
    shift = (reward[right].mean() + reward[~right].mean()) / 2
    return float(
        -np.log(sigmoid(reward[right] - shift)).mean() - np.log(sigmoid(shift - reward[~right])).mean()
    )


# --- the E-step -------------------------------------------------------------------------------------------------------


def test_the_e_step_is_the_binary_classifier_of_the_paper() -> None:
    given = arrays()
    out = evaluate("vpd", given, overrides=E_STEP)
    assert out["loss"] == pytest.approx(expected_loss(rho(given), given["reward"] == 1), abs=1e-12)
    right = given["reward"] == 1
    assert out["metrics"]["implicit_reward/right"] == pytest.approx(rho(given)[right].mean())
    assert out["metrics"]["implicit_reward/wrong"] == pytest.approx(rho(given)[~right].mean())


def test_its_gradient_is_a_sigmoid_for_each_answer_under_the_teachers_prompt_alone() -> None:
    given = arrays()
    reward, right = rho(given), given["reward"] == 1
    shift = (reward[right].mean() + reward[~right].mean()) / 2
    slope = np.where(right, -sigmoid(shift - reward) / right.sum(), sigmoid(reward - shift) / (~right).sum())
    logits = given["teacher_logits"][TEACHER]
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(logits))
    found = evaluate("vpd", given, overrides=E_STEP)
    expected = BETA * slope[:, None, None] * given["mask"][..., None] * score
    np.testing.assert_allclose(found["grads"][TEACHER], expected, atol=1e-13)
    assert not found["grad"].any()  # the prior is held constant


def test_without_feedback_every_reward_is_zero_and_the_loss_two_log_two() -> None:
    given = arrays()
    given["teacher_logits"] = {TEACHER: given["student_logits"]}
    out = evaluate("vpd", given, overrides=E_STEP)
    assert out["loss"] == pytest.approx(2 * np.log(2), abs=1e-12)


def test_the_fixed_prior_is_the_reference_and_a_constant_in_it_changes_nothing() -> None:
    given, rng = arrays(), np.random.default_rng(3)
    reference = -rng.random(given["ids"].shape)
    prior = {**E_STEP, "prior": "initial"}
    first = evaluate("vpd", {**given, "teacher_log_probs": {REFERENCE: reference}}, overrides=prior)
    sums = (taken(given["teacher_logits"][TEACHER], given) - np.where(given["mask"], reference, 0.0)).sum(1)
    assert first["loss"] == pytest.approx(expected_loss(BETA * sums, given["reward"] == 1), abs=1e-12)
    shifted = reference.copy()
    shifted[:, 0] -= 2.5
    second = evaluate("vpd", {**given, "teacher_log_probs": {REFERENCE: shifted}}, overrides=prior)
    assert second["loss"] == pytest.approx(first["loss"], abs=1e-12)
    np.testing.assert_allclose(second["grads"][TEACHER], first["grads"][TEACHER], atol=1e-13)


@pytest.mark.parametrize("kind", [0.0, 1.0])
def test_of_one_kind_alone_the_shift_is_its_own_mean(kind: float) -> None:
    given = {**arrays(), "reward": np.full(6, kind)}
    reward = rho(given)
    away = (reward.mean() - reward) if kind == 0 else (reward - reward.mean())
    out = evaluate("vpd", given, overrides=E_STEP)
    assert out["loss"] == pytest.approx(-np.log(sigmoid(away)).mean(), abs=1e-12)
    assert len([name for name in out["metrics"] if name.startswith("implicit_reward/")]) == 1


def test_rollouts_without_feedback_count_in_neither_step() -> None:
    given = arrays()
    seen = np.array([True, True, False, True, False, True])
    few = {
        name: value[seen] if isinstance(value, np.ndarray) else {k: v[seen] for k, v in value.items()}
        for name, value in given.items()
    }
    for update in (0, 1):
        out, expected = (
            evaluate("vpd", one, overrides=E_STEP, update=update)
            for one in ({**given, "available": {TEACHER: seen}}, few)
        )
        assert out["loss"] == pytest.approx(expected["loss"], abs=1e-12)
    nobody = evaluate("vpd", {**given, "available": {TEACHER: np.zeros(6, dtype=bool)}})
    assert nobody["loss"] == 0.0
    assert not nobody["grads"].get(TEACHER, np.zeros(1)).any()


# --- the M-step -------------------------------------------------------------------------------------------------------


def test_the_m_step_is_the_mean_over_rollouts_of_the_reverse_kls_sum() -> None:
    given = arrays()
    p, q = log_softmax(given["student_logits"]), log_softmax(given["teacher_logits"][TEACHER])
    each = (np.exp(p) * (p - q)).sum(-1) * given["mask"]
    for mean_over, expected in (("rollouts", each.sum() / 6), ("tokens", each.sum() / given["mask"].sum())):
        overrides = {"student_top_k": None, "mean_over": mean_over}
        out = evaluate("vpd", given, update=1, overrides=overrides)
        assert out["loss"] == pytest.approx(expected, abs=1e-12)
        assert set(out["grads"]) == {STUDENT} or not out["grads"][TEACHER].any()


@pytest.mark.parametrize("top_k", [None, 4])
def test_without_e_steps_it_is_sdpo_with_a_live_teacher(top_k: int | None) -> None:
    given = arrays()
    overrides = {"expectation_every": None, "mean_over": "tokens", "student_top_k": top_k}
    ours = evaluate("vpd", given, overrides=overrides)
    live = {"weights": "live", "alpha": 1.0, "is_clip": None, "student_top_k": top_k}
    theirs = evaluate("sdpo", given, overrides=live)
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-12)
    np.testing.assert_allclose(ours["grad"], theirs["grad"], atol=1e-13)


def test_the_teacher_is_trained_before_every_fifth_batch() -> None:
    recipe = with_knobs(recipe_named("vpd"), {"update_epochs": 2, "minibatches": 3, "prior": "initial"})
    for step in range(11):
        roles = [(one.roles, one.epoch, one.parts) for one in recipe.updates(step)]
        first = [((TEACHER,), 0, 1)] if step % 5 == 0 else []
        shift = len(first)
        assert roles == first + [((STUDENT,), epoch + shift, 3) for epoch in range(2) for _ in range(3)]
        assert set(recipe.active(step)) == ({TEACHER, REFERENCE} if first else {TEACHER})
    assert len(with_knobs(recipe, {"expectation_every": None}).updates(0)) == 6


# --- as it runs -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def gap(batch: TextBatch, recipe: Recipe) -> float:
    """Mean implicit reward of right rollouts less that of wrong ones, in nats."""
    stats = batch.statistics(recipe.updates(0)[0])
    list(recipe.terms(stats))
    return stats.metrics["implicit_reward/right"] - stats.metrics["implicit_reward/wrong"]


@pytest.mark.parametrize("prior", ["student", "initial"])
def test_a_run_makes_both_steps_and_the_first_sorts_right_from_wrong(prior: str, tiny: str) -> None:
    words = ("--prior", prior, "--expectation-every", "2", "--per-prompt", "4", "--beta", "1", "--lr", "1e-3")
    run = run_of(tiny, *words, "--no-sibling", recipe="vpd")
    run.enter(0)
    batch = run.learner.collect(0)
    # A tiny model is never right: say that some are, each with something said of it.
    reward = batch.columns.reward
    assert reward is not None
    reward[::2] = 1.0
    recipe, names = run.learner.recipe, []
    gaps = [gap(batch, recipe)]
    for update in run.learner.updates(batch):
        run.update(update, batch)
        names += [one.term.name for one in batch.weighted]
        gaps.append(gap(batch, recipe))
    assert names == ["expect", "distill"]
    assert gaps[1] > gaps[0] + 1e-3
    assert [one.roles for one in recipe.updates(1)] == [(STUDENT,)]


@pytest.mark.parametrize("feedback", ["critique", "both"])
def test_a_critique_is_written_of_each_attempt_and_read_by_the_teacher(feedback: str, tiny: str) -> None:
    words = ("--feedback-from", feedback, "--no-sibling", "--critique-tokens", "5", "--per-prompt", "2")
    run = run_of(tiny, *words, recipe="vpd")
    run.enter(0)
    batch = run.learner.collect(0)
    renderer = run.learner.policy.renderer
    assert batch.spent > sum(len(one.ids) for one in batch.rows)  # what was written of them is counted too
    told = [one for one in batch.rows if one.grade is not None and one.grade.feedback]
    assert told
    for i, one in enumerate(batch.rows):
        assert one.grade is not None
        shown = batch.contexts[TEACHER].prompts[i]
        assert (shown is None) == (one.grade.feedback is None)
        verifier = run.learner.task.grade(one.example, one.text).feedback
        if feedback == "both" and verifier:
            assert (one.grade.feedback or "").startswith(verifier)
        if shown is not None:
            assert "attempt" not in one.example.private
            assert (one.grade.feedback or "").split()[-1] in renderer.text(shown)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"sibling": False, "feedback_from": "never"}, "bare question"),
        ({"per_prompt": 1, "feedback_from": "never"}, "per_prompt of at least 2"),
        ({"tail": "renormalize", "student_top_k": 1}, "always 0"),
        ({"expectation_every": 0}, "expectation_every"),
        ({"beta": 0.0}, "beta"),
    ],
)
def test_what_cannot_teach_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_knobs(recipe_named("vpd"), knobs)
