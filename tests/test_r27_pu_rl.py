"""Card 27: what scores become, in numbers; the verdict; the stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.r27_pu_rl import verdict
from selfteach.testing import evaluate

SCORES = np.array([7.0, 3.0, 5.0, 1.0, 1.5, 0.0])


def given_with(score: Any = SCORES, judged: Any = None) -> dict[str, Any]:
    known = np.ones(6) if judged is None else np.array(judged)
    return {
        **arrays(teachers=("reference",)),
        "numbers": {"score": np.array(score, dtype=float), "judged": known},
    }


def gradient(given: dict[str, Any], **words: Any) -> np.ndarray:
    out: np.ndarray = evaluate("pu-rl", given, overrides={"kl": 0.0, **words})["grad"]
    return out


def grpo(given: dict[str, Any], reward: np.ndarray) -> np.ndarray:
    bare = {k: v for k, v in given.items() if k != "teacher_logits"}
    out: np.ndarray = evaluate("grpo", {**bare, "reward": reward}, overrides={"kl": 0.0})["grad"]
    return out


def soft(score: np.ndarray, tau: float) -> np.ndarray:
    parts = [np.exp((part - part.max()) / tau) for part in (score[:3], score[3:])]
    return np.concatenate([part / part.sum() for part in parts])


@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_a_label_distribution_is_the_reward_of_grpo(tau: float) -> None:
    given = given_with()
    expected = grpo(given, soft(SCORES, tau))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(gradient(given, label_temperature=tau), expected, atol=1e-14)


def test_scores_may_be_rewards_as_they_are() -> None:
    np.testing.assert_allclose(gradient(given_with(), update="grpo"), grpo(given_with(), SCORES), atol=1e-14)


def test_a_cold_distribution_takes_the_best_alone() -> None:
    best = np.array([1.0, 0, 0, 0, 1, 0])
    np.testing.assert_allclose(
        gradient(given_with(), label_temperature=1e-3), grpo(given_with(), best), atol=1e-12
    )


@pytest.mark.parametrize("update", ["ldl", "grpo", "dpo"])
def test_equal_scores_teach_nothing(update: str) -> None:
    assert (gradient(given_with(np.full(6, 3.0)), update=update) == 0).all()


@pytest.mark.parametrize("update", ["ldl", "grpo", "dpo"])
def test_answers_without_a_verdict_take_no_part(update: str) -> None:
    judged = [1, 1, 0, 1, 1, 1]
    found = gradient(given_with(judged=judged), update=update)
    assert (found[2] == 0).all()
    assert np.abs(found).max() > 1e-4
    other = np.where(np.array(judged) > 0, SCORES, 99.0)
    np.testing.assert_array_equal(found, gradient(given_with(other, judged), update=update))


def sums(given: dict[str, Any], logits: np.ndarray) -> np.ndarray:
    own = np.take_along_axis(log_softmax(logits), given["ids"][..., None], -1)[..., 0]
    total: np.ndarray = (own * given["mask"]).sum(1)
    return total


def test_a_pair_is_the_best_of_a_group_before_its_worst() -> None:
    given = given_with()
    ratio = sums(given, given["student_logits"]) - sums(given, given["teacher_logits"]["reference"])
    margins = 0.2 * np.array([ratio[0] - ratio[1], ratio[4] - ratio[5]])
    out = evaluate("pu-rl", given, overrides={"update": "dpo", "beta": 0.2})
    assert out["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean())
    assert (out["grad"][[2, 3]] == 0).all()


def test_what_grows_with_the_score_makes_the_same_pairs() -> None:
    one, other = (gradient(given_with(score), update="dpo") for score in (SCORES, np.exp(SCORES)))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one).max() > 1e-3


def test_a_group_of_equals_makes_no_pair_and_moves_no_other() -> None:
    given = given_with([7.0, 3.0, 5.0, 1.0, 1.0, 1.0])
    ratio = sums(given, given["student_logits"]) - sums(given, given["teacher_logits"]["reference"])
    out = evaluate("pu-rl", given, overrides={"update": "dpo"})
    assert out["loss"] == pytest.approx(np.log1p(np.exp(-0.1 * (ratio[0] - ratio[1]))))


@pytest.mark.parametrize(
    ("text", "score"),
    [("7", 7.0), (" 8.5 of 10", 8.5), ("0", 0.0), ("11", None), ("good", None), ("", None), ("10.", 10.0)],
)
def test_a_verdict_is_the_first_number_within_its_bounds(text: str, score: float | None) -> None:
    assert verdict(text) == score


def test_it_imitates_the_anchors_first() -> None:
    stages = with_knobs(recipe_named("pu-rl"), {"anchor": "worked", "imitate_steps": 7}).stages
    assert list(stages) == ["imitate", "train"]
    first = stages["imitate"]
    assert (first.reference, first.optimization.steps, first.optimization.lr) == ("worked", 7, 5e-6)  # type: ignore[attr-defined]
    assert list(with_knobs(recipe_named("pu-rl"), {"imitate_steps": 0}).stages) == ["train"]


def test_one_answer_is_no_group() -> None:
    with pytest.raises(UserError, match="per_prompt must be at least 2"):
        with_knobs(recipe_named("pu-rl"), {"per_prompt": 1})


@pytest.mark.parametrize("tau", [0.2, 1.0, 30.0])
def test_of_scores_that_are_right_or_wrong_every_temperature_is_grpo(tau: float) -> None:
    """So the arena's verifier cannot tell soft labels from the best taking all (the study's second claim)."""
    binary = given_with(np.array([1.0, 0, 1, 0, 0, 1]))
    got = gradient(binary, label_temperature=tau, advantage_eps=1e-12)
    np.testing.assert_allclose(got, gradient(binary, update="grpo", advantage_eps=1e-12), atol=1e-9)
    assert np.abs(got).max() > 1e-3
