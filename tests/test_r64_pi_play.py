"""pi-Play: what is known of its rewards, its losses, its teacher, and of two policies that are trained in turn."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arrays import arrays, log_softmax, slopes
from doors import run_of_recipe
from saved import everything
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.recipes import recipe_named, with_knobs
from selfteach.recipes.examiner import EXAMINER, Examine, difficulty
from selfteach.recipes.kit import EMA, Answer, Grade, Partial, Plain, Prompt, Recipe, Solution, Trajectory
from selfteach.recipes.r64_pi_play import PiPlay
from selfteach.task.arena import arena_model, open_world
from selfteach.task.example import Example
from selfteach.testing import evaluate

TWO = ("teacher", "reference")
SMALL = {
    "rounds": 2, "steps": 2, "examiner_steps": 1, "prompts": 9, "per_prompt": 2, "tries": 4, "max_tokens": 24,
    "question_tokens": 40, "lr": 1e-3, "examiner_lr": 1e-3, "kl": 0.0, "tau": 0.25, "draws": 1,
}  # fmt: skip


def recipe(**knobs: Any) -> Recipe:
    return with_knobs(PiPlay(), knobs)


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


# --- the examiner -----------------------------------------------------------------------------------------------------


def test_difficulty_is_highest_where_one_answer_solves_the_problem() -> None:
    assert [difficulty(k, 4) for k in range(5)] == pytest.approx([0, 1, 2 / 3, 1 / 3, 0])
    assert [difficulty(k, 2) for k in range(3)] == [0, 1, 0]


def examiner_loss(given: dict[str, Any], logits: np.ndarray, delta: float, kl: float) -> float:
    hops, reward, mask = given["numbers"]["hops"], given["reward"], given["mask"]
    advantage = np.zeros(len(reward))
    for kind in set(hops):
        own = hops == kind
        advantage[own] = (reward[own] - reward[own].mean()) / np.sqrt(reward[own].var() + delta)
    log_p = taken(logits, given["ids"])
    gap = taken(given["teacher_logits"]["reference"], given["ids"]) - log_p
    k3 = np.exp(gap) - 1 - gap
    return float(((-advantage[:, None] * log_p + kl * k3) * mask).sum() / len(reward))


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_the_examiners_loss_compares_texts_of_equally_many_hops(kl: float) -> None:
    given = arrays(teachers=("reference",))
    given["numbers"]["hops"] = np.array([1.0, 2, 1, 2, 3, 1])
    given["reward"] = np.array([0.5, 0.0, 1.5, 0.8, 1.0, 0.5])
    del given["group"]  # prompts mean nothing here
    out = evaluate(Examine(kl=kl, hop_eps=0.01), given)
    assert out["loss"] == pytest.approx(examiner_loss(given, given["student_logits"], 0.01, kl), rel=1e-12)
    for place, slope in slopes(given["student_logits"], lambda moved: examiner_loss(given, moved, 0.01, kl)):
        assert slope == pytest.approx(out["grad"][place], abs=1e-8)
    alone = given["numbers"]["hops"] == 3
    if not kl:
        assert not out["grad"][alone].any()


# --- the student ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kl", [0.0, 0.04])
@pytest.mark.parametrize("mean_over", ["sequences", "tokens"])
def test_without_distillation_it_is_grpo(kl: float, mean_over: str) -> None:
    given, knobs = arrays(teachers=TWO), {"kl": kl, "mean_over": mean_over}
    own, grpo = evaluate(recipe(distill_weight=0.0, **knobs), given), evaluate("grpo", given, overrides=knobs)
    assert own["loss"] == grpo["loss"]
    np.testing.assert_array_equal(own["grad"], grpo["grad"])


def test_as_the_paper_writes_it_tokens_are_summed_and_the_divergence_is_a_mean_over_them() -> None:
    given = arrays(teachers=TWO)
    grpo = evaluate("grpo", given, overrides={"kl": 0.0, "mean_over": "constant", "max_tokens": 1})
    p, q = (log_softmax(one) for one in (given["student_logits"], given["teacher_logits"]["teacher"]))
    divergence = (np.exp(p) * (p - q)).sum(-1) * given["mask"]
    expected = (divergence.sum(1) / given["mask"].sum(1)).mean()
    out = evaluate(recipe(kl=0.0, distill_weight=0.7, rounds=1), given)
    assert out["terms"]["policy"] == pytest.approx(grpo["loss"], rel=1e-12)
    assert out["terms"]["distill"] == pytest.approx(0.7 * expected, rel=1e-12)
    assert out["loss"] == pytest.approx(grpo["loss"] + 0.7 * expected, rel=1e-12)


def test_the_weight_of_distillation_falls_from_round_to_round() -> None:
    def strengths(**knobs: float) -> list[float]:
        stages = recipe(distill_weight=0.8, rounds=3, **knobs).stages
        return [one.strength for one in stages.values() if isinstance(one, PiPlay)]

    assert strengths(distill_decay=0.5) == pytest.approx([0.8, 0.4, 0.2])
    assert strengths(distill_decay=1.0) == [0.8] * 3
    last = recipe(distill_weight=0.8, distill_decay=0.0, kl=0.0, rounds=2).stages["solve-2"]
    assert dict(last.teachers) == {}


def test_stages_alternate_and_each_trains_its_own_weights() -> None:
    stages = recipe(rounds=2, steps=7, examiner_steps=5, lr=1e-3, examiner_lr=1e-4).stages
    assert list(stages) == ["examine-1", "solve-1", "examine-2", "solve-2"]
    assert [list(one.trained) for one in stages.values()] == [[EXAMINER], ["policy"]] * 2
    assert [one.optimization.steps for one in stages.values()] == [5, 7] * 2
    assert [one.optimization.lr for one in stages.values()] == [1e-4, 1e-3] * 2


@pytest.mark.parametrize(
    ("privilege", "view"), [("path", Solution), ("half", Partial), ("answer", Answer), ("none", Plain)]
)
def test_each_privilege_is_what_the_teacher_reads(privilege: str, view: type) -> None:
    world = open_world("reverse")
    teacher = recipe(privilege=privilege).teachers["teacher"]
    assert isinstance(teacher.view, view)
    example = world.example("+4@4-3=5")
    blank = Trajectory.written(example, [], [], "", group=0, finished=False)
    (message,) = teacher.view(blank, [blank], world.wording) or ()
    shown = {"path": "+4@4-3=5|839", "half": "+4@4-3=5|8", "answer": "+4@4-3=5|>9", "none": "+4@4-3=5"}
    assert message["content"] == shown[privilege]


# --- what is asked and what comes of it -------------------------------------------------------------------------------


@dataclass
class Scripted:
    """Tools whose examiner says the given texts, and whose student is right where ``right`` says so."""

    texts: list[str]
    right: list[bool] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    task: Any = field(default_factory=lambda: open_world("reverse"))

    def prompt(self, one: Prompt, view: Plain, room: int | None = None) -> Prompt:
        return replace(one, prompt_ids=[1])

    def sample(
        self, begun: Sequence[Prompt], n: int = 1, *, role: str = "", max_tokens: int = 0
    ) -> list[Trajectory]:
        self.asked += [f"{role or 'student'} {one.example.problem}" for one in begun for _ in range(n)]
        said = [one for one in begun for _ in range(n)]
        texts = [self.texts.pop(0) if one.example.problem[0] == "?" else "" for one in said]
        return [
            Trajectory.written(one.example, [1], [2], text, group=one.group, finished=True)
            for one, text in zip(said, texts, strict=True)
        ]

    def grade(self, answers: Sequence[Trajectory]) -> list[Trajectory]:
        return [one.graded(Grade(float(self.right.pop(0)))) for one in answers]


def prompts(count: int) -> list[Prompt]:
    return [Prompt(Example(f"{i}", ()), [1], i) for i in range(count)]


ONE, TWO_HOPS = "+4|9+4=3;|+4=3|9", "+4@4|9+4=3;3@4=8;|+4@4=8|9"


def test_the_examiner_is_rewarded_by_how_many_answers_are_right() -> None:
    tools = Scripted(
        [ONE, TWO_HOPS, "+4|9+4=3;|", ONE], [True, False, False, True, True, True, False, False, False]
    )
    stage = recipe(tries=3, format_reward=0.25, rounds=1).stages["examine-1"]
    rows = stage.rollout(tools, prompts(4), 0)  # type: ignore[arg-type]
    assert [one.grade and one.grade.reward for one in rows] == [1.25, 0.25, 0.0, 0.25]
    assert [one.numbers["hops"] for one in rows] == [1.0, 2.0, 3.0, 1.0]
    assert [dict(one.grade.numbers) for one in rows if one.grade][:3] == [
        {"posed": 1.0, "solved": 1 / 3, "difficulty": 1.0},
        {"posed": 1.0, "solved": 1.0, "difficulty": 0.0},
        {"posed": 0.0},
    ]
    assert tools.asked[:4] == [f"student ?{hops}:" for hops in (1, 2, 3, 1)]
    assert tools.asked[4:] == ["solver +4=3"] * 3 + ["solver +4@4=8"] * 3 + ["solver +4=3"] * 3


def test_the_student_answers_what_is_posed_and_the_examiner_is_asked_again_where_nothing_is() -> None:
    tools = Scripted(["x", TWO_HOPS, "y", ONE])
    rows = recipe(draws=3, per_prompt=2).rollout(tools, prompts(2), 0)  # type: ignore[arg-type]
    assert [(one.example.problem, one.group) for one in rows] == [
        ("+4@4=8", 1), ("+4@4=8", 1), ("+4=3", 0), ("+4=3", 0),
    ]  # fmt: skip
    assert [one.example.private["solution"] for one in rows] == ["39"] * 2 + ["9"] * 2
    none = Scripted(["x", "y", "z"])
    assert recipe(draws=3, per_prompt=2).rollout(none, prompts(1), 0) == []  # type: ignore[arg-type]


def test_a_task_without_an_examiner_is_refused_in_one_line(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"task table has no hops .* and no examiner.* and no posed.*reverse"
    ) as refused:
        run_of_recipe(recipe(**SMALL), tiny, tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("knobs", "said"), [({"tries": 1}, "tries"), ({"per_prompt": 1}, "per_prompt")])
def test_what_cannot_be_is_refused(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe(**knobs)


# --- a run ------------------------------------------------------------------------------------------------------------


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in model.parameters()]).clone()


def test_policies_move_in_turn_and_the_average_goes_on_through_all_rounds(tmp_path: Path) -> None:
    """ψ_T = (1 − τ)^n ψ_0 + Σ_i τ (1 − τ)^(n − i) θ_i over the student's n steps of all rounds."""
    model = str(arena_model("reverse"))
    run, learner = run_of_recipe(recipe(**SMALL), model, tmp_path, task="reverse")
    policies = {name: one.model for name, one in learner.models.policies.items()}
    assert set(policies) == {"policy", EXAMINER}
    expected = flat(policies["policy"])
    torch.testing.assert_close(expected, flat(policies[EXAMINER]), rtol=0, atol=0)
    moved = []
    for _ in range(run.steps):
        before = {name: flat(one) for name, one in policies.items()}
        run.stepped()
        now = {name: flat(one) for name, one in policies.items()}
        moved.append({name for name in now if not torch.equal(now[name], before[name])})
        if "policy" in moved[-1]:
            expected = 0.75 * expected + 0.25 * now["policy"]
    assert moved == [{EXAMINER}, {"policy"}, {"policy"}] * 2
    (teacher,) = [spec for spec in learner.models.weights.followed if isinstance(spec, EMA)]
    with learner.models.weights.scoring(teacher) as policy:
        torch.testing.assert_close(flat(policy.model), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("privilege", "zero"), [("none", True), ("path", False)])
def test_a_teacher_that_is_the_student_and_reads_nothing_teaches_nothing(
    privilege: str, zero: bool, tmp_path: Path
) -> None:
    """With τ = 1 it is the student as it sampled: KL 0, to rounding, at every step."""
    knobs = {**SMALL, "tau": 1.0, "privilege": privilege, "distill_weight": 1.0}
    run, _ = run_of_recipe(recipe(**knobs), str(arena_model("reverse")), tmp_path, task="reverse")
    found = [
        row["terms/distill"] for row in (run.stepped() for _ in range(run.steps)) if "terms/distill" in row
    ]
    assert len(found) == 4
    assert (max(map(abs, found)) < 1e-12) if zero else (min(found) > 1e-3)


def test_a_run_that_is_cut_between_two_rounds_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """The checkpoint is of the examiner's second stage, which neither shows nor moves the average."""
    words = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in {**SMALL, "kl": 0.01, "examiner_steps": 2}.items()
    ]
    common = ["--task", "reverse", "--eval-problems", "2", "--eval-samples", "1", "--checkpoint-every", "5"]
    assert (
        main(["train", "pi-play", *words, *common, "--device", "cpu", "--out", str(tmp_path / "whole")]) == 0
    )
    expected = everything(tmp_path / "whole", 8)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-8")
    assert main(["train", "--resume", "--out", str(tmp_path / "cut")]) == 0
    saved, metrics, samples = everything(tmp_path / "cut", 8)
    assert metrics == expected[1]
    assert samples == expected[2]
    assert saved.keys() == expected[0].keys()
    assert all(torch.equal(value, expected[0][place]) for place, value in saved.items())
    assert (tmp_path / "cut" / "model-examiner" / "model.safetensors").exists()


def test_without_distillation_nobody_teaches() -> None:
    assert set(recipe_named("pi-play", "no-distill").teachers) == {"reference"}
