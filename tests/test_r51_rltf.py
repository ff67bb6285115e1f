"""Card 51: what the paper says RLTF is, in numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from arrays import VOCABULARY, arrays, log_softmax, slopes
from runs import TextRun
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.kit import Prompt, Told, Trajectory
from selfteach.recipes.r51_rltf import RLTF
from selfteach.task.example import Example, Grade, Message
from selfteach.testing import evaluate
from selfteach.training.text.store import NamedStore


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def batch(seed: int = 0, **numbers: Sequence[float]) -> dict[str, Any]:
    """Three sampled rows, two that are retold and one that is a critique, unless told otherwise."""
    given = arrays(seed)
    given["behavior"] = taken(given["student_logits"], given["ids"])
    known = {
        "turn": [1, 1, 2, 0, 0, 0],
        "policy": [0.7, -0.3, 0.2, 0, 0, 0],
        "revision": [0, 0, 0, 0.9, -0.4, 0],
        "critique": [0, 0, 0, 0, 0, 1],
        **numbers,
    }
    given["numbers"] = {name: np.array(values, dtype=float) for name, values in known.items()}
    return given


def loss(
    given: dict[str, Any], beta: float, lam: float, bound: float = -5.0, logits: np.ndarray | None = None
) -> float:
    """Σ over rows of token sums, the policy's by its importance ratio, over the number of rows; the mask of unlikely
    tokens is a constant."""
    own, numbers, mask = taken(given["student_logits"], given["ids"]), given["numbers"], given["mask"]
    moved = own if logits is None else taken(logits, given["ids"])
    ratio = np.exp(moved - own) - 1 + own  # its slope at the policy that sampled is that of log π
    summands = -numbers["policy"][:, None] * ratio
    summands = summands - beta * numbers["revision"][:, None] * (own >= bound) * moved
    summands = summands - lam * numbers["critique"][:, None] * moved
    return float((summands * mask).sum() / len(mask))


@pytest.mark.parametrize(("beta", "lam"), [(0.1, 0.0), (0.0, 0.1), (0.5, 0.3)])
def test_the_loss_is_the_sum_of_three_token_sums(beta: float, lam: float) -> None:
    given = batch()
    out = evaluate("rltf", given, overrides={"revision_weight": beta, "critique_weight": lam})
    assert out["loss"] == pytest.approx(loss(given, beta, lam), rel=1e-12)
    for place, slope in slopes(given["student_logits"], lambda moved: loss(given, beta, lam, logits=moved)):
        assert slope == pytest.approx(out["grad"][place], abs=1e-8)


def test_without_revision_and_critique_it_is_the_policy_gradient_alone() -> None:
    given = batch()
    out = evaluate(recipe_named("rltf", "two-turn-grpo"), given)
    assert list(out["terms"]) == ["policy"]
    score = np.eye(VOCABULARY)[given["ids"]] - np.exp(log_softmax(given["student_logits"]))
    weight = given["numbers"]["policy"][:, None, None] * given["mask"][..., None] / 6
    np.testing.assert_allclose(out["grad"], -weight * score, atol=1e-14)


def test_tokens_that_are_unlikely_behind_the_question_are_not_retold() -> None:
    given = batch()
    own = taken(given["student_logits"], given["ids"])
    bound = float(np.median(own[3:5][given["mask"][3:5]]))
    out = evaluate("rltf", given, overrides={"min_log_prob": bound})
    assert out["loss"] == pytest.approx(loss(given, 0.1, 0.0, bound), rel=1e-12)
    retold = given["mask"] & (given["numbers"]["revision"] != 0)[:, None]
    assert (retold & (own < bound)).any()
    assert not np.any(out["grad"][retold & (own < bound)])
    assert np.all(np.abs(out["grad"][retold & (own >= bound)]).max(-1) > 0)
    every = evaluate("rltf", given, overrides={"min_log_prob": None})
    assert np.any(every["grad"][retold & (own < bound)])


@pytest.mark.parametrize("cap", [None, 1.2])
def test_with_importance_ratios_the_expectation_over_second_turns_is_that_over_first_ones(
    cap: float | None,
) -> None:
    """All answers of one token, listed: Σ_v π(v|x1) · [π(v|x0)/π(v|x1)] R(v) ∇log π(v|x0) = ∇ Σ_v π(v|x0) R(v)."""
    rng = np.random.default_rng(3)
    here, there = rng.normal(size=(2, VOCABULARY))
    reward = rng.random(VOCABULARY)
    p, q = np.exp(log_softmax(here)), np.exp(log_softmax(there))
    given = {
        "ids": np.arange(VOCABULARY)[:, None],
        "mask": np.ones((VOCABULARY, 1), dtype=bool),
        "student_logits": np.tile(here, (VOCABULARY, 1, 1)),
        "behavior": np.log(q)[:, None],
        "group": np.zeros(VOCABULARY, dtype=int),
        "reward": reward,
        "numbers": {name: np.zeros(VOCABULARY) for name in RLTF.numbers} | {"revision": q * reward},
    }
    knobs = {"revision_ratio": "token", "revision_cap": cap, "min_log_prob": None, "revision_weight": 1.0}
    found = evaluate("rltf", given, overrides=knobs)["grad"].sum((0, 1)) * VOCABULARY
    ascent = p * (reward - p @ reward)
    assert np.allclose(found, -ascent, atol=1e-13) == (cap is None)


def test_the_weight_of_what_is_retold_may_rise_in_a_line() -> None:
    given = batch()
    knobs = {"revision_schedule": "linear", "steps": 10}
    risen = [evaluate("rltf", given, step, knobs)["terms"].get("revision", 0.0) for step in (0, 5, 10, 20)]
    whole = evaluate("rltf", given)["terms"]["revision"]
    assert risen == pytest.approx([0, whole / 2, whole, whole])


def test_rewards_of_first_and_second_turns_are_reported_apart() -> None:
    found = evaluate("rltf", batch())["metrics"]
    assert found == {"reward/first": 0.5, "reward/second": 0.0}


# --- what is written ---------------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """Tools that hand out prepared answers: "+" is right, "-" is wrong, "?" cannot be read."""

    answers: list[str]
    feedback: str | None = "look at it again"
    asked: list[tuple[str, int]] = field(default_factory=list)
    kept: NamedStore = field(default_factory=NamedStore)
    rooms: list[tuple[str, int | None]] = field(default_factory=list)

    def store(self, name: str) -> NamedStore:
        return self.kept

    def sample(self, begun: Sequence[Prompt], n: int = 1, **how: Any) -> list[Trajectory]:
        self.asked.append((str(how.get("role", "student")), len(begun) * n))
        return [
            Trajectory.written(
                one.example, one.prompt_ids, [7], self.answers.pop(0), group=one.group, finished=True, behavior=[-1.0]
            )
            for one in begun
            for _ in range(n)
        ]  # fmt: skip

    def grade(self, rows: Sequence[Trajectory]) -> list[Trajectory]:
        verdict = {"+": "right", "-": "wrong", "?": "no answer"}

        def grade(text: str) -> Grade:
            return Grade(float(text == "+"), None if text == "+" else self.feedback, None, verdict[text])

        return [one.graded(grade(one.text)) for one in rows]

    def prompt(self, one: Trajectory, view: Told, room: int | None = None) -> Prompt | None:
        self.rooms.append((view.name, room))
        messages = view(one, [one], {})
        return messages and Prompt(one.example.behind(messages), [len(messages[-1]["content"])], one.group)

    def quote(self, prompts: Sequence[Prompt], name: str) -> list[Trajectory]:
        return [
            Trajectory.written(p.example, p.prompt_ids, [8, 9], p.example.private[name], group=p.group, finished=True)
            for p in prompts
        ]  # fmt: skip


def written(tools: Scripted, groups: int = 1, size: int = 4, **knobs: Any) -> list[Trajectory]:
    recipe = with_knobs(RLTF(), {"per_prompt": size, **knobs})
    prompts = [Prompt(Example(f"k{g}", (Message(role="user", content="q"),)), [g], g) for g in range(groups)]
    return list(recipe.rollout(tools, prompts, 0))  # type: ignore[arg-type]


def of(rows: Sequence[Trajectory], name: str) -> list[float]:
    return [float(one.numbers[name]) for one in rows if one.numbers[name]]  # type: ignore[arg-type]


def turn(rows: Sequence[Trajectory], which: int, name: str = "policy") -> list[Any]:
    return [one.numbers[name] for one in rows if one.numbers["turn"] == which]


def test_where_all_second_turns_are_right_only_the_first_turns_baseline_teaches() -> None:
    rows = written(Scripted(list("----++++")), gamma=0.0)
    assert of(rows, "revision") == [1.0] * 4
    assert turn(rows, 2) == [0.0] * 4
    rows = written(Scripted(list("----++++")), revision_baseline="second")
    assert of(rows, "revision") == []


def test_advantages_are_held_against_the_turn_in_the_group() -> None:
    """A right first turn ends the episode; what ended early is no part of the second turn's mean."""
    rows = written(Scripted(list("+--+") + list("+-")), gamma=0.5)
    first, second = turn(rows, 1), turn(rows, 2)
    returns = np.array([1.0, 0.5, 0.0, 1.0])
    assert first == pytest.approx(list(returns - returns.mean()))
    assert second == pytest.approx([0.5, -0.5])
    assert of(rows, "revision") == pytest.approx([1 - 0.5, 0 - 0.5])


def test_groups_are_apart() -> None:
    rows = written(Scripted(list("+-" + "--" + "+" + "++")), groups=2, size=2, gamma=0.0)
    assert turn(rows, 1) == pytest.approx([0.5, -0.5, 0.0, 0.0])
    assert of(rows, "revision") == pytest.approx([0.5, 1.0, 1.0])


def test_without_gamma_a_first_turn_earns_nothing_of_the_second() -> None:
    rows = written(Scripted(list("---") + list("+-+")), size=3, gamma=0.0)
    assert turn(rows, 1) == [0.0] * 3
    rows = written(Scripted(list("---") + list("+-+")), size=3, gamma=0.1)
    assert turn(rows, 1) == pytest.approx([0.1 / 3, -0.2 / 3, 0.1 / 3])


def test_right_answers_are_not_tried_again() -> None:
    tools = Scripted(list("++++"))
    rows = written(tools)
    assert tools.asked == [("student", 4), ("student", 0)]
    assert len(rows) == 4
    assert of(rows, "revision") == []


def test_what_cannot_be_read_costs_the_penalty() -> None:
    rows = written(Scripted(list("?-") + list("++")), size=2, gamma=0.0, format_penalty=0.1)
    assert turn(rows, 1) == pytest.approx([-0.05, 0.05])
    assert of(rows, "revision") == pytest.approx([1.05, 1.05])


def test_a_second_turn_stands_behind_the_critique_and_is_retold_behind_the_question() -> None:
    rows = written(Scripted(list("-+") + list("+")), size=2)
    (again,) = (one for one in rows if one.numbers["turn"] == 2)
    (retold,) = (one for one in rows if one.numbers["revision"])
    shown = again.example.prompt[-1]["content"]
    assert "look at it again" in shown
    assert "q" in shown
    assert retold.example.prompt == rows[0].example.prompt
    assert retold.prompt_ids == rows[0].prompt_ids
    assert retold.ids == again.ids
    assert all(math.isnan(value) for value in retold.behavior)
    assert again.behavior == [-1.0]
    weighed = written(Scripted(list("-+") + list("+")), size=2, revision_ratio="token")
    (kept,) = (one for one in weighed if one.numbers["revision"])
    assert kept.behavior == [-1.0]


def test_the_critique_is_learned_behind_question_and_attempt() -> None:
    rows = written(Scripted(list("-+") + list("+")), size=2, critique_weight=0.1, revision_weight=0.0)
    (row,) = (one for one in rows if one.numbers["critique"])
    assert row.text == "look at it again"
    asked = row.example.prompt[-1]["content"]
    assert "--- an attempt ---\n-\n" in asked
    assert "look at it again" not in asked
    assert of(rows, "revision") == []


def test_a_critique_of_the_models_own_is_reinforced_by_what_came_of_it() -> None:
    knobs = {"critic": "self", "critique_weight": 0.1, "revision_weight": 0.0}
    tools = Scripted([*"---", "a", "b", "c", *"+--"])
    rows = written(tools, size=3, **knobs)
    own = [one for one in rows if one.text in ("a", "b", "c")]
    assert [one.numbers["policy"] for one in own] == pytest.approx([0.2 / 3, -0.1 / 3, -0.1 / 3])
    assert [one.numbers["turn"] for one in own] == [0.0] * 3
    assert [one.right for one in own] == [True, False, False], (
        "a grade of the critique itself would be an answer's"
    )
    assert [one.example.private["feedback"] for one in rows if one.numbers["turn"] == 2] == ["a", "b", "c"]


def test_a_judge_is_another_model_that_only_writes() -> None:
    recipe = with_knobs(RLTF(), {"critic": "judge", "judge": "arena:tutor-large"})
    assert list(recipe.writers) == ["judge"]
    assert recipe.active(0) == ()
    tools = Scripted([*"--", "a", "b", *"++"])
    rows = written(tools, size=2, critic="judge", judge="x", judge_template="{problem} {attempt}?")
    assert tools.asked[1] == ("judge", 2)
    assert [one.example.private["feedback"] for one in rows if one.numbers["turn"] == 2] == ["a", "b"]


@pytest.mark.parametrize(
    ("critic", "rooms"),
    [
        ({"critic": "self"}, {("critique", 33), ("feedback", None)}),
        ({"critic": "judge", "judge": "x"}, {("judge", 33), ("critique", None), ("feedback", None)}),
        ({"critic": "verifier"}, {("critique", None), ("feedback", None)}),
    ],
)
def test_a_request_for_a_critique_leaves_room_for_a_critique(critic: dict[str, Any], rooms: Any) -> None:
    tools = Scripted([*"--", *("ab" if critic["critic"] != "verifier" else ""), *"++"])
    written(tools, size=2, critique_tokens=33, **critic)
    assert set(tools.rooms) == rooms


def test_the_bare_verdict_is_a_critic_too() -> None:
    rows = written(Scripted(list("-+") + list("+"), feedback=None), size=2, critic="verdict")
    (again,) = (one for one in rows if one.numbers["turn"] == 2)
    assert "The answer is not correct." in again.example.prompt[-1]["content"]


def test_a_verifier_that_never_says_anything_is_refused() -> None:
    """One that has nothing to say of some answers is none."""
    tools = Scripted(list("-" * 40), feedback=None)
    assert len(written(tools, size=20)) == 20
    with pytest.raises(UserError, match="first 40 wrong answers: take --critic verdict, self or judge"):
        written(tools, size=20)
    tools = Scripted(list("-+") + list("+") + list("-" * 40))
    written(tools, size=2)
    tools.feedback = None
    assert len(written(tools, size=40)) == 40


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"per_prompt": 1}, "per_prompt must be at least 2"),
        ({"critic": "judge"}, "critic judge and --judge go together"),
        ({"judge": "x"}, "critic judge and --judge go together"),
        ({"gamma": 1.5}, "gamma"),
    ],
)
def test_what_cannot_be_is_refused(knobs: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        with_knobs(RLTF(), knobs)


@pytest.mark.parametrize("words", ["", "--critique-weight 0.1", "--critique-weight 0.1 --critic self"])
def test_a_step_goes_through_the_real_path(words: str) -> None:
    few = "--prompts 2 --per-prompt 4 --steps 2 --critique-tokens 4 --eval-problems 0 --samples-every 0"
    run = TextRun(configured(["rltf", *few.split(), *words.split()])[0])
    run.enter(0)
    rows = run.learner.collect(0).rows
    again = [one for one in rows if one.numbers["turn"] == 2]
    retold = [one for one in rows if one.origin == "revision"]
    assert len(again) == len(retold) > 0
    for one, told in zip(again, retold, strict=True):
        assert one.ids == told.ids
        assert one.grade == told.grade == run.learner.task.grade(told.example, told.text)
        assert one.example.problem == told.example.problem
        assert Trajectory.from_json(json.loads(json.dumps(told.to_json()))) == told
    run.step()
    assert "reward/first" in run.progress.rows[-1]
