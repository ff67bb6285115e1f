"""Card 27: what scores become, in numbers; the verdict; the stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.kit import Prompt, Told, Trajectory
from selfteach.recipes.r27_pu_rl import PURL, verdict
from selfteach.task.example import Example, Message
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


@pytest.mark.parametrize("update", ["ldl", "grpo", "dpo"])
@pytest.mark.parametrize("scale", ["std", "population", "none"])
def test_a_batch_is_as_without_the_answers_that_have_no_verdict(update: str, scale: str) -> None:
    judged = np.array([1, 1, 0, 1, 1, 1])
    given, kept = given_with(judged=judged), judged.astype(bool)
    less = {
        name: value[kept] if isinstance(value, np.ndarray) and len(value) == 6 else value
        for name, value in given.items()
        if name != "marks"
    }
    less["teacher_hidden"] = {name: value[kept] for name, value in given["teacher_hidden"].items()}
    less["numbers"] = {name: value[kept] for name, value in given["numbers"].items()}
    less["teacher_logits"] = {"reference": given["teacher_logits"]["reference"][kept]}
    found, expected = (gradient(one, update=update, scale=scale) for one in (given, less))
    np.testing.assert_allclose(found[kept], expected, atol=1e-15)
    assert np.abs(expected[:2]).max() > 1e-4


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
    [
        ("7", 7.0),
        (" 8.5 of 10", 8.5),
        ("8/10", 8.0),
        ("3 out of 10.", 3.0),
        ("10/10", 10.0),
        ("0", 0.0),
        ("Answer 2: 9", 9.0),
        ("answer2: 9", 9.0),
        ("0-10: 4", 4.0),
        ("11", None),
        ("-5", None),
        ("a \u22125", None),
        ("8 of 100", None),
        ("70%", None),
        ("7%", None),
        ("7,5", None),
        ("1.2.3", None),
        ("good", None),
        ("", None),
        ("10.", 10.0),
    ],
)
def test_a_verdict_is_the_last_number_within_its_bounds(text: str, score: float | None) -> None:
    assert verdict(text) == score


@dataclass
class Scripted:
    """Tools whose student gives these verdicts one after another, or these log-probs, and has this much room."""

    verdicts: list[str] = field(default_factory=list)
    log_prob: list[list[float]] = field(default_factory=list)
    room: int = 1000
    asked: list[str] = field(default_factory=list)

    def prompt(self, one: Trajectory, view: Told, room: int | None = None) -> Prompt | None:
        messages = view(one, [one], {})
        short = self.room < (2048 if room is None else room)
        return None if messages is None or short else Prompt(one.example.behind(messages), [0], one.group)

    def sample(self, begun: Sequence[Prompt], **how: Any) -> list[Trajectory]:
        self.asked += [one.example.prompt[-1]["content"] for one in begun]
        return [rows(self.verdicts.pop(0))[0] for _ in begun]

    def log_probs(self, written: Sequence[Trajectory], role: str) -> list[list[float]]:
        assert role == "judge"
        return self.log_prob


def rows(*texts: str, anchor: str = "the anchor") -> list[Trajectory]:
    example = Example("k", (Message(role="user", content="q"),), {"solution": anchor})
    return [Trajectory.written(example, [0], [1], text, group=0, finished=True) for text in texts]


def scores(tools: Scripted, written: list[Trajectory], **words: Any) -> list[float | None]:
    recipe = with_knobs(recipe_named("pu-rl"), words)
    assert isinstance(recipe, PURL)
    return recipe.scores(tools, written)  # type: ignore[arg-type]


def test_an_empty_answer_is_judged_0_and_nobody_is_asked() -> None:
    tools = Scripted(["8", "2"])
    assert scores(tools, rows("one", "", " \n", "two")) == [8.0, 0.0, 0.0, 2.0]
    assert len(tools.asked) == 2
    assert "the anchor" in tools.asked[0]
    assert "one" in tools.asked[0]


def test_a_verdict_needs_room_for_itself_alone() -> None:
    assert scores(Scripted(["8"], room=4), rows("one", "")) == [8.0, 0.0]
    assert scores(Scripted(room=3), rows("one", "")) == [None, 0.0]
    assert scores(Scripted(), rows("one", anchor="")) == [None]


def test_a_likelihood_that_is_not_known_is_no_score() -> None:
    tools = Scripted(log_prob=[[-1.0, -2.0], [float("nan")] * 2, [], [-float("inf")]])
    assert scores(tools, rows("a", "b", "", "d"), judge="likelihood") == [-1.5, None, None, None]


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
