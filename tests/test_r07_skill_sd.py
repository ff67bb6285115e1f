"""Card 7: what the paper says Skill-SD is, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from episodes import Episodes, prompt
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.kit import Frozen, Live, Trajectory
from selfteach.recipes.r07_skill_sd import STORE, SkillSD
from selfteach.testing import evaluate


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def batch(shown: tuple[int, ...] = (1, 1, 0, 1, 0, 0)) -> dict[str, Any]:
    """Rewards are equal in each group, so that the distillation stands alone; a teacher sees some rows."""
    return {**arrays(), "reward": np.ones(6), "available": {"teacher": np.array(shown, dtype=bool)}}


def loss(given: dict[str, Any], logits: np.ndarray) -> float:
    """Mean over the tokens with a skill of ρ (exp(−l) − 1 + l)."""
    own, theirs = taken(logits, given["ids"]), taken(given["teacher_logits"]["teacher"], given["ids"])
    seen = given["mask"] & given["available"]["teacher"][:, None]
    gap = own - theirs
    each = np.exp(own - given["behavior"]) * (np.exp(-gap) - 1 + gap)
    return float(each[seen].mean())


def test_the_distillation_is_the_formula_and_differentiated_through_ratio_and_gap() -> None:
    given = batch()
    out = evaluate("skill-sd", given, overrides={"distill_weight": 0.5})
    assert out["terms"]["policy"] == 0
    assert out["loss"] == pytest.approx(0.5 * loss(given, given["student_logits"]), rel=1e-12)
    for place, slope in slopes(given["student_logits"], lambda moved: 0.5 * loss(given, moved)):
        assert slope == pytest.approx(out["grad"][place], abs=1e-7)


def test_its_gradient_is_ratio_times_gap_times_the_score() -> None:
    given = batch()
    own, theirs = (
        taken(x, given["ids"]) for x in (given["student_logits"], given["teacher_logits"]["teacher"])
    )
    seen = given["mask"] & given["available"]["teacher"][:, None]
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    scale = np.exp(own - given["behavior"]) * (own - theirs) * seen / seen.sum()
    out = evaluate("skill-sd", given, overrides={"distill_weight": 1.0})
    np.testing.assert_allclose(out["grad"], scale[..., None] * score, atol=1e-13)


def test_without_a_skill_there_is_nothing_but_grpo() -> None:
    given = {**batch((0,) * 6), "reward": arrays()["reward"]}
    out = evaluate("skill-sd", given, overrides={"distill_weight": 3.0})
    del given["available"]  # of a role that is not there
    alone = evaluate("skill-sd", given, overrides={"distill_weight": 0.0})
    assert out["terms"]["distill"] == 0
    assert out["loss"] == alone["loss"]
    np.testing.assert_array_equal(out["grad"], alone["grad"])
    assert with_knobs(SkillSD(), {"distill_weight": 0.0}).teachers == {}


def test_the_teacher_is_the_student_as_it_is_or_as_it_was() -> None:
    assert SkillSD().teachers["teacher"].weights == Live()
    assert recipe_named("skill-sd", "frozen").teachers["teacher"].weights == Frozen()


# --- what is written ---------------------------------------------------------------------------------------------


def rule(**knobs: Any) -> SkillSD:
    made = {"summarizer": "rule", "summarize": "best", "per_prompt": 2, **knobs}
    return with_knobs(SkillSD(), made)  # type: ignore[return-value]


def steps(recipe: SkillSD, tools: Episodes, *outcomes: list[tuple[str, float]]) -> list[list[Trajectory]]:
    """One prompt of task "a" a step."""
    found = []
    for step, each in enumerate(outcomes):
        tools.outcomes += each
        found.append(list(recipe.rollout(tools, [prompt("a", 0)], step)))  # type: ignore[arg-type]
    return found


def skills(rows: list[Trajectory]) -> set[str | None]:
    return {one.example.private.get("skill") for one in rows}


def test_a_steps_skills_are_of_use_to_later_ones_and_the_best_rollout_is_kept() -> None:
    tools = Episodes()
    first, second = steps(rule(), tools, [("bad", 0.0), ("good", 1.0)], [("x", 0.5), ("y", 0.0)])
    assert skills(first) == {None}
    assert skills(second) == {"good"}
    good, x = tools.store(STORE).notes["entries"]
    assert (good["text"], good["uses"], good["reward"]) == ("good", 1, 0.25)
    assert (x["text"], x["uses"]) == ("x", 0)


def test_first_made_they_are_of_use_at_once() -> None:
    tools = Episodes()
    (rows,) = steps(rule(summarize_first=True), tools, [("bad", 0.0), ("good", 1.0)])
    assert skills(rows) == {"good"}


def test_unused_ones_come_first_then_the_best_mean() -> None:
    tools = Episodes()
    rows = steps(
        rule(ucb_c=0.0), tools,
        [("s1", 0.9), ("-", 0.0)], [("s2", 0.8), ("-", 0.8)], [("s2", 0.1), ("-", 0.1)], [("s2", 0.0), ("-", 0.0)],
    )  # fmt: skip
    assert [skills(each) for each in rows] == [{None}, {"s1"}, {"s2"}, {"s1"}]


def test_every_rollout_is_summarized_with_its_reward_in_view() -> None:
    tools = Episodes()
    steps(rule(summarizer="self", summarize="all"), tools, [("left", 0.25), ("right", 1.0)])
    assert ["its reward: 0.25" in asked for asked in tools.written] == [True, False]
    assert ["left" in asked for asked in tools.written] == [True, False]
    assert len(tools.store(STORE).notes["entries"]) == 1  # both were answered with the same words


def test_the_student_is_asked_plainly_unless_it_is_the_one_that_reads() -> None:
    for reader, shown in (("teacher", "open the door"), ("student", "the skill: good")):
        tools = Episodes()
        recipe = rule(reader=reader, skill_template="the skill: {skill}")
        steps(recipe, tools, [("bad", 0.0), ("good", 1.0)], [("x", 0.5), ("y", 0.0)])
        assert tools.asked == ["open the door"] * 2 + [shown] * 2
    assert recipe.teachers == {}


def test_other_tasks_read_nothing() -> None:
    tools = Episodes()
    steps(rule(), tools, [("bad", 0.0), ("good", 1.0)])
    tools.outcomes += [("x", 0.0), ("y", 0.0)]
    assert skills(list(rule().rollout(tools, [prompt("b", 0)], 1))) == {None}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [({"per_prompt": 1}, "per_prompt"), ({"reader": "student", "summarize_first": True}, "summarize_first")],
)
def test_what_cannot_be_is_refused(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(SkillSD(), knobs)
