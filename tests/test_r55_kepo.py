"""KEPO: its loss in numpy, the identities that its paper states, and what becomes of a group that failed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pytest

from arrays import arrays, log_softmax, mean_of_sequences, slopes
from runs import TextRun
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.hints import WITH_ANSWER, WITH_HINT, Hints
from selfteach.recipes.kit import Prompt, Told, Trajectory
from selfteach.recipes.r55_kepo import KEPO
from selfteach.task.example import Example, Grade, Message
from selfteach.testing import evaluate
from selfteach.training.text.store import NamedStore

HEAT = 0.9
"""The paper's sampling temperature, at which the policy gradient reads log-probs."""


def taken(logits: np.ndarray, ids: np.ndarray, temperature: float = HEAT) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits, temperature), ids[..., None], -1)[..., 0]


def batch(seed: int = 0, **numbers: Sequence[float]) -> dict[str, Any]:
    """Six rollouts in two groups, some readable, none from behind a hint, sampled not far from the policy."""
    given = arrays(seed)
    noise = np.random.default_rng(3).normal(size=given["behavior"].shape)
    given["behavior"] = taken(given["student_logits"], given["ids"]) + 0.2 * noise
    known = {"readable": [1, 1, 0, 1, 1, 0], "dead": [0] * 6, "hinted": [0] * 6, **numbers}
    given["numbers"] = {name: np.array(values, dtype=float) for name, values in known.items()}
    return given


def kl(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (np.exp(one) * (one - other)).sum(-1)


def divergence(given: Mapping[str, Any], beta: float, logits: np.ndarray, temperature: float) -> np.ndarray:
    """[N, T] the generalized JSD, with its limits."""
    p = log_softmax(logits, temperature)
    q = log_softmax(given["teacher_logits"]["teacher"], temperature)
    if beta in (0, 1):
        return kl(p, q) if beta else kl(q, p)
    m = np.log(beta * np.exp(q) + (1 - beta) * np.exp(p))
    return beta * kl(q, m) + (1 - beta) * kl(p, m)


def advantage(reward: np.ndarray, group: np.ndarray) -> np.ndarray:
    found = np.zeros_like(reward)
    for one in np.unique(group):
        own = reward[group == one]
        found[group == one] = (own - own.mean()) / (own.std(ddof=1) + 1e-4)
    return found


def parts(
    given: Mapping[str, Any],
    logits: np.ndarray,
    tau: float = 1.0,
    beta: float = 0.5,
    form: float = 1.0,
    heat: float = 1.0,
) -> tuple[float, float]:
    """(policy, distill); what is a constant of the loss is taken at the batch's own logits."""
    numbers, mask = given["numbers"], given["mask"]
    reward = given["reward"] + form * numbers["readable"]
    a = advantage(reward, given["group"])[:, None]
    old = taken(given["student_logits"], given["ids"])
    behavior = np.where(numbers["hinted"][:, None] > 0, old, given["behavior"])
    ratio = np.exp(taken(logits, given["ids"]) - behavior)
    policy = mean_of_sequences(-np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a), mask)
    gated = mask & (reward >= tau)[:, None]
    return policy, float((divergence(given, beta, logits, heat) * gated).sum() / max(gated.sum(), 1))


def distilled(given: dict[str, Any], **knobs: Any) -> tuple[float, np.ndarray]:
    """(value, gradient) of the gated term alone."""
    whole, without = (
        evaluate("kepo", given, overrides=knobs),
        evaluate("kepo", given, overrides={"tau": None}),
    )
    return whole["terms"]["distill"], whole["grad"] - without["grad"]


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hinted", [[0] * 6, [0, 0, 0, 1, 0, 1]])
@pytest.mark.parametrize(
    ("tau", "beta", "form", "heat"), [(1.0, 0.5, 1.0, 1.0), (2.0, 0.1, 1.0, 0.9), (1.0, 0.5, 0.0, 1.0)]
)
def test_the_loss_is_the_papers(hinted: list[int], tau: float, beta: float, form: float, heat: float) -> None:
    given = batch(hinted=hinted)
    knobs = {"tau": tau, "beta": beta, "format_reward": form}
    out = evaluate("kepo", given, overrides={**knobs, "distill_temperature": None if heat == HEAT else heat})

    def loss(logits: np.ndarray) -> float:
        return sum(parts(given, logits, tau, beta, form, heat))

    policy, distill = parts(given, given["student_logits"], tau, beta, form, heat)
    assert distill > 0
    assert out["terms"] == pytest.approx({"policy": policy, "distill": distill}, rel=1e-12)
    assert out["loss"] == pytest.approx(policy + distill, rel=1e-12)
    for place, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(out["grad"][place], abs=1e-8)


def test_below_every_reward_the_gate_leaves_grpo_and_uniform_distillation() -> None:
    given = batch()
    grpo = evaluate("grpo", given, overrides={"kl": 0.0, "temperature": HEAT})
    gkd = evaluate("gkd", given, overrides={"mean_over": "tokens", "beta": 0.5, "temperature": 1.0})
    for tau in (-1.0, 0.0):
        out = evaluate("kepo", given, overrides={"tau": tau, "format_reward": 0.0})
        assert out["loss"] == pytest.approx(grpo["loss"] + gkd["loss"], rel=1e-12)
        np.testing.assert_allclose(out["grad"], grpo["grad"] + gkd["grad"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("tau", [1.5, None])
def test_above_every_reward_it_is_grpo_and_the_empty_gate_is_zero(tau: float | None) -> None:
    given = batch()
    grpo = evaluate("grpo", given, overrides={"kl": 0.0, "temperature": HEAT})
    out = evaluate("kepo", given, overrides={"tau": tau, "format_reward": 0.0})
    assert out["terms"].get("distill", 0.0) == 0.0
    assert out["loss"] == grpo["loss"]
    np.testing.assert_array_equal(out["grad"], grpo["grad"])


def test_equal_rewards_leave_the_gated_term_alone() -> None:
    given = batch(readable=[0, 0, 0, 1, 1, 1])
    given["reward"] = np.array([0.0, 0, 0, 1, 1, 1])
    out = evaluate("kepo", given)
    value, gradient = distilled(given)
    assert out["terms"]["policy"] == 0.0
    np.testing.assert_array_equal(out["grad"], gradient)
    assert not out["grad"][:3].any()
    assert value > 0


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_divergence_is_forward_kl_at_beta_0_and_reverse_kl_at_1(beta: float) -> None:
    given = batch()
    p, q = (log_softmax(x) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    one = kl(p, q) if beta else kl(q, p)
    gated = given["mask"] & (given["reward"] + given["numbers"]["readable"] >= 1)[:, None]
    assert distilled(given, beta=beta)[0] == pytest.approx((one * gated).sum() / gated.sum(), rel=1e-12)


def test_the_gates_mean_does_not_know_how_many_rollouts_it_leaves_out() -> None:
    """Rows 2 and 5 earn nothing. Without them, and with them, value and gradient are the same."""
    given = batch()
    given["reward"] = np.array([1.0, 0, 0, 1, 1, 0])
    kept = [0, 1, 3, 4]

    def some(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: some(one) for name, one in value.items()}
        return value[kept]

    few = {name: some(value) for name, value in given.items() if name != "pair"}
    value, gradient = distilled(given)
    value_of_few, gradient_of_few = distilled(few)
    assert value == pytest.approx(value_of_few, rel=1e-12)
    np.testing.assert_allclose(gradient[kept], gradient_of_few, rtol=0, atol=1e-15)
    assert not gradient[[2, 5]].any()


def test_another_teacher_changes_the_gradient_of_gated_rollouts_alone() -> None:
    given = batch()
    first = evaluate("kepo", given)["grad"]
    given["teacher_logits"]["teacher"] = given["teacher_logits"]["teacher"][::-1].copy()
    moved = np.abs(evaluate("kepo", given)["grad"] - first).max(-1)
    gated = given["reward"] + given["numbers"]["readable"] >= 1
    assert gated.tolist() == [True, True, False, True, True, False]
    assert (moved[gated][given["mask"][gated]] > 0).all()
    assert not moved[~gated].any()


def test_a_readable_wrong_answer_passes_the_gate_and_beats_an_unreadable_one() -> None:
    given = batch(readable=[1, 1, 0, 1, 1, 0])
    open_rows = {
        form: evaluate("kepo", given, overrides={"format_reward": form})["metrics"]["gate/open"]
        for form in (1.0, 0.5, 0.0)
    }
    assert open_rows == pytest.approx({1.0: 4 / 6, 0.5: 3 / 6, 0.0: 3 / 6})
    given["reward"] = np.zeros(6)
    grad = evaluate("kepo", given, overrides={"tau": None})["grad"]
    assert (np.abs(grad).max(-1) > 0)[given["mask"]].any()
    assert not evaluate("kepo", given, overrides={"tau": None, "format_reward": 0.0})["grad"].any()


def test_behind_a_hint_the_ratio_is_one_whatever_the_sampler_said() -> None:
    given = batch(hinted=[0, 1, 0, 0, 0, 0])
    first = evaluate("kepo", given)
    given["behavior"][1] = np.nan
    again = evaluate("kepo", given)
    assert again["loss"] == first["loss"]
    np.testing.assert_array_equal(again["grad"], first["grad"])
    given["behavior"][0] = np.nan
    with pytest.raises(ValueError, match="behavior"):
        evaluate("kepo", given)


def test_in_later_updates_of_a_batch_the_ratio_is_that_to_the_weights_before_the_first() -> None:
    given = batch(hinted=[1, 0, 0, 0, 0, 0])
    old = taken(given["student_logits"], given["ids"]) - 0.1
    given["old_log_probs"] = {"student": old, "teacher": old}
    given["behavior"][0] = np.nan
    out = evaluate("kepo", given, overrides={"update_epochs": 2, "tau": None}, update=1)
    ratio = np.exp(taken(given["student_logits"], given["ids"]) - given["behavior"])
    ratio[0] = np.exp(0.1)
    a = advantage(given["reward"] + given["numbers"]["readable"], given["group"])[:, None]
    expected = mean_of_sequences(-np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a), given["mask"])
    assert out["loss"] == pytest.approx(expected, rel=1e-12)


def test_the_reference_is_scored_if_it_counts() -> None:
    given = batch()
    given["teacher_logits"]["reference"] = given["teacher_logits"]["teacher"][::-1].copy()
    gap = taken(given["teacher_logits"]["reference"], given["ids"]) - taken(
        given["student_logits"], given["ids"]
    )
    expected = 0.04 * mean_of_sequences(np.exp(gap) - gap - 1, given["mask"])
    assert evaluate("kepo", given, overrides={"kl": 0.04})["terms"]["kl"] == pytest.approx(
        expected, rel=1e-12
    )


def test_what_failed_is_reported_before_and_after_hints() -> None:
    given = batch(dead=[0, 0, 0, 1, 1, 1], hinted=[0] * 6)
    found = evaluate("kepo", given)["metrics"]
    assert found["dead/sampled"] == found["dead/left"] == 0.5
    given["numbers"]["hinted"][3] = 1
    found = evaluate("kepo", given)["metrics"]
    assert (found["dead/sampled"], found["dead/left"]) == (0.5, 0.0)
    assert found["reward/total"] == pytest.approx((given["reward"] + given["numbers"]["readable"]).mean())


@pytest.mark.parametrize(
    ("preset", "teachers", "writers"),
    [("paper", ["teacher"], ["hinter"]), ("kdpo", ["teacher"], []), ("grpo", [], [])],
)
def test_who_scores_and_who_writes(preset: str, teachers: list[str], writers: list[str]) -> None:
    recipe = recipe_named("kepo", preset)
    assert list(recipe.teachers) == teachers
    assert list(recipe.writers) == writers


# --- what is written --------------------------------------------------------------------------------------------------

RIGHT, WRONG, SILENT = "+", "-", "?"


@dataclass
class Scripted:
    """Tools that hand out prepared answers, "+" right, "-" wrong, "?" unreadable, and a teacher's prepared texts."""

    answers: list[str]
    texts: list[str] = field(default_factory=list)
    seed: int = 0
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    kept: NamedStore = field(default_factory=NamedStore)
    made: int = 100

    def store(self, name: str) -> NamedStore:
        return self.kept

    def random(self, name: str, *, shared: bool = False) -> Random:
        return Random(f"{self.seed} {name}")

    def sample(self, begun: Sequence[Prompt], n: int = 1, **how: Any) -> list[Trajectory]:
        role = str(how.get("role", "student"))
        self.asked += [(role, one.example.prompt[-1]["content"], n) for one in begun]
        return [self.written(one, role) for one in begun for _ in range(n)]

    def written(self, one: Prompt, role: str) -> Trajectory:
        self.made += 1
        text = (self.answers if role == "student" else self.texts).pop(0)
        return Trajectory.written(
            one.example, one.prompt_ids, [self.made], text, group=one.group, finished=True, behavior=[-1.0],
            temperature=0.9,
        )  # fmt: skip

    def grade(self, rows: Sequence[Trajectory]) -> list[Trajectory]:
        verdict = {RIGHT: "right", WRONG: "wrong", SILENT: "no answer"}
        return [one.graded(Grade(float(one.text == RIGHT), None, None, verdict[one.text])) for one in rows]

    def prompt(self, one: Prompt, view: Told, room: int | None = None) -> Prompt | None:
        blank = Trajectory.written(one.example, one.prompt_ids, [], "", group=one.group, finished=False)
        messages = view(blank, [blank], {})
        return messages and Prompt(one.example.behind(messages), [len(messages[-1]["content"])], one.group)


def prompts(count: int, **private: str) -> list[Prompt]:
    told = private or {"answer": "42"}
    return [
        Prompt(Example(f"k{g}", (Message(role="user", content=f"q{g}"),), told), [g], g) for g in range(count)
    ]


def written(tools: Scripted, given: Sequence[Prompt], **knobs: Any) -> list[Trajectory]:
    recipe = with_knobs(KEPO(), {"per_prompt": 4, **knobs})
    return list(recipe.rollout(tools, given, 0))  # type: ignore[arg-type]


def texts(rows: Sequence[Trajectory]) -> str:
    return "".join(one.text for one in rows)


def of(rows: Sequence[Trajectory], name: str) -> list[Any]:
    return [one.numbers[name] for one in rows]


def student_asked(tools: Scripted) -> list[tuple[str, int]]:
    return [(said, n) for role, said, n in tools.asked if role == "student"]


HINT = "<hint> look left </hint>"


def test_only_a_group_of_which_nothing_earned_anything_is_rescued() -> None:
    """Group 0 has a right answer, group 1 a readable one, group 2 nothing."""
    given = prompts(3)
    tools = Scripted([*"???+", *"??-?", *"????", *"++"], [HINT])
    rows = written(tools, given)
    assert [role for role, _, _ in tools.asked].count("hinter") == 1
    assert texts(rows[:4]) == "???+"
    assert texts(rows[4:8]) == "??-?"
    assert sorted(texts(rows[8:])) == sorted("??++")
    assert of(rows, "dead") == [0.0] * 8 + [1.0] * 4
    assert of(rows, "hinted") == [0.0] * 8 + [float(one.text == "+") for one in rows[8:]]
    assert of(rows, "readable") == [float(one.text != "?") for one in rows]
    assert [one.group for one in rows] == [0] * 4 + [1] * 4 + [2] * 4


def test_without_a_format_reward_readable_wrong_answers_are_a_failed_group() -> None:
    tools = Scripted([*"--?-", *"++"], [HINT])
    assert texts(written(tools, prompts(1), format_reward=0.0)).count("+") == 2
    assert texts(written(Scripted([*"--?-"]), prompts(1), format_reward=1.0)) == "--?-"


def test_a_rescued_answer_stands_behind_the_bare_prompt_with_its_own_grade_and_no_behavior() -> None:
    (given,) = prompts(1)
    tools = Scripted([*"????", *"++"], [HINT])
    rows = written(tools, [given])
    taken_over = [one for one in rows if one.origin == "hinted"]
    assert len(taken_over) == 2
    for one in taken_over:
        assert one.example == given.example
        assert one.prompt_ids == given.prompt_ids
        assert one.ids in ([106], [107])
        assert one.right
        assert all(math.isnan(value) for value in one.behavior)
        assert one.authors == ["hinted"]
        assert one.temperature == 0.9
    others = [one for one in rows if one.origin == "student"]
    assert all(one.behavior == [-1.0] for one in others)


def test_slots_are_random_and_all_others_stay_where_they_are() -> None:
    seen = set()
    for seed in range(40):
        rows = written(Scripted([*"????", *"++"], [HINT], seed), prompts(1))
        slots = tuple(i for i, one in enumerate(rows) if one.origin == "hinted")
        assert len(slots) == 2
        # The sampler numbers what it writes: 101 to 104 are the group, the hint is 105.
        assert [one.ids for i, one in enumerate(rows) if i not in slots] == [
            [101 + i] for i in range(4) if i not in slots
        ]
        seen.add(slots)
    assert len(seen) == 6


def test_the_teacher_is_told_the_answer_and_the_student_what_the_template_says() -> None:
    tools = Scripted([*"????", *"++"], [f"Well. {HINT} Good luck! <hint>no</hint>"])
    written(tools, prompts(1))
    (request,) = [said for role, said, _ in tools.asked if role == "hinter"]
    assert "q0" in request
    assert "42" in request
    shown, n = student_asked(tools)[-1]
    assert n == 2
    assert "<hint>look left</hint>" in shown
    assert "42" in shown
    tools = Scripted([*"????", *"++"], [HINT])
    written(tools, prompts(1), hinted_template=WITH_HINT)
    shown, _ = student_asked(tools)[-1]
    assert "look left" in shown
    assert "42" not in shown


def test_answers_are_taken_if_all_are_right_and_tried_again_behind_the_same_hint() -> None:
    tools = Scripted([*"????", *"+-", *"-+", *"++"], [HINT])
    rows = written(tools, prompts(1))
    assert sorted(one.ids[0] for one in rows if one.origin == "hinted") == [110, 111]
    assert [n for _, n in student_asked(tools)] == [4, 2, 2, 2]
    assert len({said for said, _ in student_asked(tools)[1:]}) == 1
    assert [role for role, _, _ in tools.asked].count("hinter") == 1


@pytest.mark.parametrize("attempts", [1, 5])
def test_after_so_many_attempts_the_group_is_kept(attempts: int) -> None:
    tools = Scripted([*"????", *"+-" * attempts], [HINT])
    rows = written(tools, prompts(1), attempts=attempts)
    assert len(student_asked(tools)) == 1 + attempts
    assert tools.answers == []
    assert texts(rows) == "????"
    assert of(rows, "hinted") == [0.0] * 4
    assert of(rows, "dead") == [1.0] * 4


def test_groups_are_tried_apart() -> None:
    """The first is rescued at once, the second at the second attempt, the third never."""
    tools = Scripted([*"????" * 3, *"++-++-", *"++--", *"--"], [HINT] * 3)
    rows = written(tools, prompts(3), attempts=3)
    assert [sorted(texts(rows[i : i + 4])) for i in (0, 4, 8)] == [
        sorted("??++"), sorted("??++"), list("????"),
    ]  # fmt: skip
    asked = [said.split("\n")[0] for said, n in student_asked(tools) if n == 2]
    assert asked == ["q0", "q1", "q2", "q1", "q2", "q2"]


@pytest.mark.parametrize("text", ["look left", "<hint></hint>", "<hint>cut"])
def test_a_text_without_a_hint_keeps_the_group(text: str) -> None:
    tools = Scripted([*"????"], [text])
    assert texts(written(tools, prompts(1))) == "????"
    assert len(student_asked(tools)) == 1


def test_without_a_tag_the_whole_text_is_the_hint() -> None:
    assert with_knobs(KEPO(), {"hint_tag": ""}).hints.read(" a\nb ") == "a\nb"  # type: ignore[attr-defined]
    assert Hints().read("<hint>a\nb</hint>") == "a\nb"
    assert Hints(hint_tag="h+").read("<hh>no</hh><h+>yes</h+>") == "yes"


def test_hints_that_never_come_are_refused() -> None:
    tools = Scripted([*"????" * 40])
    assert len(written(tools, prompts(31, solution="data without an answer"))) == 124
    with pytest.raises(UserError, match="none of the first 32 prompts that wanted a hint got one") as refused:
        written(tools, prompts(1, solution="data without an answer"))
    assert "\n" not in str(refused.value)
    tools = Scripted([*"????", *"++", *"????" * 40], [HINT])
    written(tools, prompts(1))
    assert len(written(tools, prompts(40, solution="nor here"))) == 160


def test_without_hints_nobody_is_asked_for_one() -> None:
    tools = Scripted([*"????" * 2])
    rows = written(tools, prompts(2), hinted=0)
    assert [role for role, _, _ in tools.asked] == ["student"] * 2
    assert of(rows, "dead") == [1.0] * 8


def test_a_reward_below_zero_is_no_more_than_nothing() -> None:
    recipe = with_knobs(KEPO(), {"format_reward": 0.0})
    (one,) = Scripted([WRONG]).sample(prompts(1))
    earned = [recipe.earned(one.graded(Grade(reward))) for reward in (-1.0, 0.0, 0.25)]  # type: ignore[attr-defined]
    assert earned == [-1.0, 0.0, 0.25]


def test_an_answer_that_the_length_cut_is_not_readable() -> None:
    (one,) = Scripted([WRONG]).grade(Scripted([WRONG]).sample(prompts(1)))
    recipe = KEPO()
    assert recipe.earned(one) == 1.0
    cut = Trajectory.written(
        one.example, one.prompt_ids, one.ids, one.text, group=0, finished=False, grade=one.grade
    )
    assert recipe.earned(cut) == 0.0


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"per_prompt": 1}, "per_prompt must be at least 2"),
        ({"hinted": 9}, "a group has 8 rollouts to replace"),
        ({"hinted_template": "{problem}"}, "must name {hint}"),
        ({"beta": 1.5}, "beta"),
        ({"attempts": 0}, "attempts"),
        ({"tau": "high"}, "tau"),
    ],
)
def test_what_cannot_be_is_refused(knobs: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        with_knobs(KEPO(), knobs)
    assert "\n" not in str(refused.value)


def test_the_templates_name_what_they_should() -> None:
    assert "{answer}" in WITH_ANSWER
    assert "{answer}" not in WITH_HINT


# --- a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["", "--update-epochs 2", "--tau none"])
def test_a_step_goes_through_the_real_path(words: str) -> None:
    few = "--prompts 6 --per-prompt 4 --hinted 2 --steps 2 --eval-problems 0 --samples-every 0 --device cpu"
    run = TextRun(configured(["kepo", "--task", "tutor", *few.split(), *words.split()])[0])
    run.enter(0)
    rows = run.learner.collect(0).rows
    assert len(rows) == 24
    hinted = [one for one in rows if one.origin == "hinted"]
    assert len(hinted) >= 2
    plain = {one.group: one for one in rows if one.origin == "student"}
    for one in hinted:
        assert one.prompt_ids == plain[one.group].prompt_ids
        assert one.example == plain[one.group].example
        assert one.grade == run.learner.task.grade(one.example, one.text)
        assert one.right
        assert not any(
            other.right for other in rows if other.group == one.group and other.origin == "student"
        )
        assert Trajectory.from_json(json.loads(json.dumps(one.to_json()))).ids == one.ids
    run.step()
    row = run.progress.rows[-1]
    assert row["dead/sampled"] > row["dead/left"]
    assert math.isfinite(row["loss"])
