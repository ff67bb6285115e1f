"""Card 01: what the paper says OPSD is, in numbers."""

from __future__ import annotations

import numpy as np
import pytest

from arrays import arrays, log_softmax, mean_of_sequences, slopes
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r01_opsd import OPSD
from selfteach.testing import evaluate

TAU = 1.1
"""The paper's sampling temperature, which its loss shares."""


def entries(given: dict, temperature: float = TAU) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p = log_softmax(given["student_logits"], temperature)
    q = log_softmax(given["teacher_logits"]["teacher"], temperature)
    return p, q, np.exp(q) * (q - p)


def test_the_default_is_the_papers_clipped_forward_kl_at_the_sampling_temperature() -> None:
    given = arrays()
    _, _, summands = entries(given)
    expected = mean_of_sequences(np.minimum(summands, 0.05).sum(-1), given["mask"])
    assert evaluate("opsd", given)["loss"] == pytest.approx(expected, rel=1e-12)


def test_without_a_clip_it_is_forward_kl() -> None:
    given = arrays()
    _, _, summands = entries(given)
    expected = mean_of_sequences(summands.sum(-1), given["mask"])
    assert evaluate("opsd", given, overrides={"clip_entry": None})["loss"] == pytest.approx(
        expected, rel=1e-12
    )
    assert evaluate("opsd", given, overrides={"clip_entry": 1e9})["loss"] == pytest.approx(
        expected, rel=1e-12
    )


def test_beta_one_is_reverse_kl() -> None:
    given = arrays()
    p, q, _ = entries(given)
    expected = mean_of_sequences((np.exp(p) * (p - q)).sum(-1), given["mask"])
    loss = evaluate("opsd", given, overrides={"beta": 1.0, "clip_entry": None})["loss"]
    assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_beta_between_is_the_generalized_jsd_with_beta_on_the_teacher(beta: float) -> None:
    given = arrays()
    p, q, _ = entries(given)
    m = np.log(beta * np.exp(q) + (1 - beta) * np.exp(p))
    jsd = beta * (np.exp(q) * (q - m)).sum(-1) + (1 - beta) * (np.exp(p) * (p - m)).sum(-1)
    loss = evaluate("opsd", given, overrides={"beta": beta, "clip_entry": None})["loss"]
    assert loss == pytest.approx(mean_of_sequences(jsd, given["mask"]), rel=1e-12)


def test_a_clipped_position_may_be_negative_and_its_gradient_pushes_the_clamped_token_down() -> None:
    logits = np.zeros((1, 1, 3))
    teacher = np.array([[[4.0, 0.0, 0.0]]])
    given = {
        "ids": np.array([[0]]),
        "mask": np.array([[True]]),
        "student_logits": logits,
        "teacher_logits": {"teacher": teacher},
    }
    out = evaluate("opsd", given, overrides={"clip_entry": 1e-3, "loss_temperature": 1.0})
    p, q = np.exp(log_softmax(logits)), np.exp(log_softmax(teacher))
    assert out["loss"] < 0
    unclamped = q * (np.log(q) - np.log(p)) <= 1e-3
    expected = p * (q * unclamped).sum(-1, keepdims=True) - unclamped * q
    np.testing.assert_allclose(out["grad"], expected, atol=1e-12)
    assert out["grad"][0, 0, 0] > 0


def test_the_gradient_is_that_of_finite_differences() -> None:
    given = arrays()
    gradient = evaluate("opsd", given, overrides={"clip_entry": None, "beta": 0.5})["grad"]

    def loss(moved: np.ndarray) -> float:
        return evaluate(
            "opsd", {**given, "student_logits": moved}, overrides={"clip_entry": None, "beta": 0.5}
        )["loss"]

    for i, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(gradient[i], abs=1e-8)


def test_the_sampled_policy_gradient_is_the_gradient_of_reverse_kl_in_expectation() -> None:
    given = arrays()
    knobs = {"loss": "policy-gradient", "clip_entry": None}
    p, _, _ = entries(given)
    expected = evaluate("opsd", given, overrides={"beta": 1.0, "clip_entry": None})["grad"]
    mean = np.zeros_like(expected)
    for token in range(p.shape[-1]):
        ids = np.full_like(given["ids"], token)
        mean += (
            np.exp(p[..., token : token + 1])
            * evaluate("opsd", {**given, "ids": ids}, overrides=knobs)["grad"]
        )
    np.testing.assert_allclose(mean, expected, atol=1e-12)


def test_teacher_top_k_of_the_whole_vocabulary_is_the_full_loss() -> None:
    given = arrays()
    whole = evaluate("opsd", given)
    cut = evaluate("opsd", given, overrides={"teacher_top_k": given["student_logits"].shape[-1]})
    assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-12)
    np.testing.assert_allclose(cut["grad"], whole["grad"], atol=1e-13)


def test_teacher_top_k_renormalizes_both_sides_on_the_teachers_choice() -> None:
    given = arrays()
    p, q, _ = entries(given)
    top = np.argsort(-q, axis=-1)[..., :4]
    p, q = (log_softmax(np.take_along_axis(x, top, -1)) for x in (p, q))
    expected = mean_of_sequences((np.exp(q) * (q - p)).sum(-1), given["mask"])
    loss = evaluate("opsd", given, overrides={"teacher_top_k": 4, "clip_entry": None})["loss"]
    assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "knobs", [{}, {"beta": 1.0}, {"beta": 0.5, "clip_entry": None}, {"teacher_top_k": 3}]
)
def test_a_teacher_that_agrees_gives_zero_loss_and_zero_gradient(knobs: dict) -> None:
    given = arrays()
    given["teacher_logits"] = {"teacher": given["student_logits"].copy()}
    out = evaluate("opsd", given, overrides=knobs)
    assert out["loss"] == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-14)


@pytest.mark.parametrize("knobs", [{}, {"beta": 1.0}, {"loss": "policy-gradient", "clip_entry": None}])
def test_changing_the_teacher_changes_the_gradient(knobs: dict) -> None:
    given = arrays()
    other = {**given, "teacher_logits": {"teacher": given["teacher_logits"]["teacher"] + np.arange(13) * 0.1}}
    a, b = (evaluate("opsd", x, overrides=knobs)["grad"] for x in (given, other))
    assert np.abs(a - b).max() > 1e-4


def test_the_released_codes_mean_is_over_all_tokens() -> None:
    given = arrays()
    _, _, summands = entries(given)
    per_token = np.minimum(summands, 0.05).sum(-1)
    loss = evaluate("opsd", given, overrides={"mean_over": "tokens"})["loss"]
    assert loss == pytest.approx(float((per_token * given["mask"]).sum() / given["mask"].sum()), rel=1e-12)


def test_padding_changes_nothing() -> None:
    given = arrays()
    wide = {
        name: np.pad(value, [(0, 0), (0, 4)] + [(0, 0)] * (value.ndim - 2)) if np.ndim(value) >= 2 else value
        for name, value in given.items()
        if name not in ("teacher_logits", "teacher_hidden", "marks", "numbers")
    }
    teacher = given["teacher_logits"]["teacher"]
    wide["teacher_logits"] = {"teacher": np.pad(teacher, [(0, 0), (0, 4), (0, 0)], constant_values=7.0)}
    assert evaluate("opsd", wide)["loss"] == pytest.approx(evaluate("opsd", given)["loss"], rel=1e-13)


def test_the_presets_hold_the_papers_values() -> None:
    thinking, plain, v1 = (recipe_named("opsd", name) for name in ("v3-thinking", "v3-nonthinking", "v1"))
    assert isinstance(thinking, OPSD)
    assert isinstance(plain, OPSD)
    assert isinstance(v1, OPSD)
    assert (thinking.clip_entry, thinking.beta, thinking.rollouts.max_tokens) == (0.05, 0.0, 1024)
    assert (thinking.optimization.lr, thinking.optimization.max_grad_norm) == (5e-6, 0.1)
    assert (thinking.adapter.lora_rank, thinking.adapter.lora_alpha) == (64, 128)
    assert (thinking.student_thinking, thinking.teacher_thinking) == (False, True)
    assert plain.clip_entry == 1e-6
    assert (v1.beta, v1.clip_entry, v1.optimization.lr, v1.rollouts.max_tokens) == (0.5, None, 2e-4, 2048)
    assert v1.optimization.max_grad_norm is None


def test_the_loss_temperature_follows_the_sampling_temperature() -> None:
    assert with_knobs(OPSD(), {"temperature": 0.7}).temperature == 0.7
    assert with_knobs(OPSD(), {"temperature": 0.7, "loss_temperature": 1.0}).temperature == 1.0


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"beta": 1.5}, "beta"),
        ({"ema_decay": -0.1}, "ema_decay"),
        ({"view": "prefix"}, "--prefix"),
        ({"loss": "policy-gradient"}, "clip_entry"),
        ({"weights": "live", "view": "plain"}, "always 0"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_an_impossible_combination_refuses_to_construct(knobs: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(OPSD(), knobs)
