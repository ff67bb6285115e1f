"""REINFORCE++ (standardized over the batch, a KL in the reward) and DAPO's pieces of GRPO."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arrays import LENGTHS, arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.grpo import GRPO
from selfteach.task.example import Example, Grade, Message
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate


def tokens(given: dict[str, Any], name: str = "") -> np.ndarray:
    logits = given["teacher_logits"][name] if name else given["student_logits"]
    return np.take_along_axis(log_softmax(logits), given["ids"][..., None], -1)[..., 0]


def surrogate(given: dict[str, Any], advantage: np.ndarray) -> float:
    ratio = np.exp(tokens(given) - given["behavior"])
    each = -np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    return float((each * given["mask"]).sum() / given["mask"].sum())


def standardized(column: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (column - column[mask].mean()) / column[mask].std()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("kl", [0.01, 1.0])
def test_the_kl_still_to_come_is_taken_off_the_reward(estimator: str, kl: float) -> None:
    given = arrays(teachers=("reference",))
    gap = given["behavior"] - tokens(given, "reference")
    each = {"k1": gap, "k2": gap**2 / 2, "k3": np.exp(-gap) - 1 + gap}[estimator] * given["mask"]
    advantage = np.array([[r - kl * row[t:].sum() for t in range(9)] for r, row in zip(
        given["reward"], each, strict=True)])  # fmt: skip
    out = evaluate("reinforce-plus-plus", given, overrides={"kl": kl, "kl_estimator": estimator})
    assert out["loss"] == pytest.approx(surrogate(given, standardized(advantage, given["mask"])), rel=1e-10)


def test_the_variant_with_a_baseline_compares_within_the_group_and_has_the_kl_in_the_loss() -> None:
    given = arrays(teachers=("reference",))
    reward = given["reward"] - np.array([1 / 3] * 3 + [2 / 3] * 3)
    column = np.broadcast_to(reward[:, None], given["mask"].shape)
    out = evaluate(recipe_named("reinforce-plus-plus", "baseline"), given, overrides={"kl": 0.3})
    assert out["terms"]["policy"] == pytest.approx(
        surrogate(given, standardized(column, given["mask"])), rel=1e-10
    )
    k2 = (tokens(given) - tokens(given, "reference")) ** 2 / 2
    expected = 0.3 * (k2 * given["mask"]).sum() / given["mask"].sum()
    assert out["terms"]["kl"] == pytest.approx(expected, rel=1e-12)


def test_without_a_kl_no_reference_is_scored_and_equal_rewards_teach_nothing() -> None:
    given = {**arrays(teachers=()), "reward": np.ones(6)}
    assert not evaluate("reinforce-plus-plus", given, overrides={"kl": 0.0})["grad"].any()


@pytest.mark.parametrize("change", [{"baseline": "group"}, {"kl_in": "loss"}])
def test_what_cannot_be_meant_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        with_knobs(recipe_named("reinforce-plus-plus"), change)


# --- DAPO: too long an answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "dgrpo", "rlad"])
def test_an_answer_loses_reward_as_it_nears_the_longest(name: str) -> None:
    """Of 9 tokens, a cache of ⅔: 3 tokens are free, 6 lose half of the penalty, 9 the whole."""
    given = arrays(teachers=("reference", "teacher"))
    knobs = {"max_tokens": 9, "overlong_cache": 2 / 3, "overlong_penalty": 0.5}
    less = 0.5 * np.array([max(0.0, length - 3) / 6 for length in LENGTHS])
    assert less[0] == 0.5
    assert less[3] == less[5] == 0
    out = evaluate(name, given, overrides=knobs)
    by_hand = evaluate(name, {**given, "reward": given["reward"] - less})
    assert out["loss"] == pytest.approx(by_hand["loss"], rel=1e-12)
    np.testing.assert_allclose(out["grad"], by_hand["grad"], atol=1e-14)
    assert out["loss"] != evaluate(name, given)["loss"]


# --- DAPO: groups that teach nothing -----------------------------------------------------------------------------


class Groups:
    """Tools of which every group's rewards are known beforehand; ``left``: what ``more`` may still give."""

    def __init__(self, rewards: list[list[float]], have: int) -> None:
        self.rewards, self.next = rewards, have
        self.asked: list[int] = []

    def play(self, prompts: Any, n: int) -> list[Trajectory]:
        example = Example("k", (Message(role="user", content="?"),), {})
        return [
            Trajectory.written(example, [1], [i], "x", group=prompt, finished=True)
            for prompt in prompts
            for i in range(n)
        ]

    def grade(self, written: list[Trajectory]) -> list[Trajectory]:
        return [one.graded(Grade(self.rewards[one.group][one.ids[0]])) for one in written]

    def more(self, lacking: int) -> list[int]:
        self.asked.append(lacking)
        given = list(range(self.next, self.next + max(0, lacking)))
        self.next += len(given)
        return given


def kept(tools: Any, draws: int) -> list[int]:
    recipe = with_knobs(GRPO(), {"draws": draws, "per_prompt": 2})
    return [one.group for one in recipe.rollout(tools, [0, 1, 2], 0)]  # type: ignore[list-item]


def test_groups_of_equal_rewards_are_replaced_until_the_batch_is_full() -> None:
    rewards = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.5, 0.4], [0.0, 1.0]]
    tools = Groups(rewards, 3)
    assert kept(tools, 10) == [0, 0, 4, 4, 5, 5]
    assert tools.asked == [2, 1, 0]


def test_after_so_many_rounds_the_batch_is_what_it_is() -> None:
    tools = Groups([[1.0, 0.0], *[[1.0, 1.0]] * 9], 3)
    assert kept(tools, 3) == [0, 0]
    assert tools.asked == [2, 2]
    assert kept(Groups([[1.0, 1.0]] * 12, 3), 2) == []


def test_by_default_groups_are_taken_as_they_come_and_nobody_grades_them() -> None:
    tools: Any = SimpleNamespace(play=lambda prompts, n: [f"{one}{i}" for one in prompts for i in range(n)])
    recipe = with_knobs(GRPO(), {"per_prompt": 2})
    assert recipe.rollout(tools, ["a", "b"], 0) == ["a0", "a1", "b0", "b1"]  # type: ignore[list-item]


def test_preset_dapo_has_all_of_dapos_pieces() -> None:
    dapo: Any = recipe_named("grpo", "dapo")
    assert (dapo.grpo.clip_high, dapo.kl, dapo.mean_over) == (0.28, 0.0, "tokens")
    assert (dapo.draws, dapo.overlong_cache, dapo.overlong_penalty) == (10, 0.2, 0.5)
