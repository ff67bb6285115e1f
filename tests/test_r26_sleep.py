"""Card 26: what the paper says Sleep is, in numbers."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from arrays import arrays, log_softmax, slopes
from doors import run_of_recipe
from selfteach.cli.train import configured
from selfteach.errors import UserError
from selfteach.policy.loading import load_policy
from selfteach.recipes import RECIPES, recipe_named, with_knobs
from selfteach.recipes.kit import External, Frozen, Prompt, Snapshot
from selfteach.recipes.r26_sleep import Sleep, likeness
from selfteach.task.arena import resolve_model
from selfteach.task.example import Example, Grade, Message
from selfteach.task.segment import Segment
from selfteach.task.trajectory import Trajectory
from selfteach.testing import evaluate
from selfteach.training.launch import launch
from selfteach.training.progress import Silent

EPS, CLIP = 1e-4, 0.2


# --- the reward --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retold", "dream", "most", "reward"),
    [
        ("abd", "abc", None, 2 / 3), ("abc", "abc", None, 1), ("abc", "abc", 0, 1), ("abd", "abc", 1, 2 / 3),
        ("abd", "abc", 0, 0), ("xyz", "abc", 2, 0), ("xyz", "abc", None, 0), ("ab", "abcd", None, 0.5),
        ("", "", None, 1),
    ],
)  # fmt: skip
def test_the_reward_for_tokens_is_the_cards(retold: str, dream: str, most: int | None, reward: float) -> None:
    ids = [[1000 + ord(c) for c in text] for text in (retold, dream)]
    assert likeness(*ids, most) == pytest.approx(reward, abs=1e-15)


# --- the loss ----------------------------------------------------------------------------------------------------


def near(seed: int = 0) -> dict[str, Any]:
    """A batch of four texts retold and two dreams, whose ratios lie on both sides of the clip."""
    given, rng = arrays(seed), np.random.default_rng(seed + 1)
    own = taken(given["student_logits"], given["ids"])
    given["behavior"] = own + 0.3 * rng.normal(size=own.shape)
    return given


def taken(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_softmax(logits), ids[..., None], -1)[..., 0]


def mean_of_rows(column: np.ndarray, where: np.ndarray) -> float:
    """The mean over rows with a token of the means over these."""
    rows = where.any(1)
    return float(((column * where).sum(1)[rows] / where.sum(1)[rows]).mean())


def parts(given: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """[N, T] which tokens the student wrote, which are a dream's."""
    own = given["marks"]["completed"] & given["mask"]
    return own, given["mask"] & ~own.any(1, keepdims=True)


def reinforced(given: dict[str, Any], gamma: float, logits: np.ndarray) -> float:
    own, _ = parts(given)
    rows = own.any(1)
    reward = gamma * given["numbers"]["same"] + (1 - gamma) * given["numbers"]["alike"]
    advantage = np.zeros(len(rows))
    for group in set(given["group"]):
        its = rows & (given["group"] == group)
        advantage[its] = (reward[its] - reward[its].mean()) / (reward[its].std(ddof=1) + EPS)
    ratio, a = np.exp(taken(logits, given["ids"]) - given["behavior"]), advantage[:, None]
    return mean_of_rows(-np.minimum(ratio * a, ratio.clip(1 - CLIP, 1 + CLIP) * a), own)


def distilled(given: dict[str, Any], lmbda: float, logits: np.ndarray, reverse: bool = False) -> float:
    q, p = log_softmax(given["teacher_logits"]["teacher"]), log_softmax(logits)
    kl = (np.exp(p) * (p - q)).sum(-1) if reverse else (np.exp(q) * (q - p)).sum(-1)
    own, dreams = parts(given)
    return lmbda * mean_of_rows(kl, own) + (1 - lmbda) * mean_of_rows(kl, dreams)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("lmbda", [0.0, 0.4, 1.0])
def test_the_loss_is_the_cards(alpha: float, lmbda: float) -> None:
    given, knobs = near(), {"alpha": alpha, "lmbda": lmbda, "gamma": 0.7}

    def loss(logits: np.ndarray) -> float:
        return (1 - alpha) * reinforced(given, 0.7, logits) + alpha * distilled(given, lmbda, logits)

    out = evaluate("sleep", given, overrides=knobs)
    assert out["loss"] == pytest.approx(loss(given["student_logits"]), rel=1e-12)
    for place, slope in slopes(given["student_logits"], loss):
        assert slope == pytest.approx(out["grad"][place], abs=1e-8)


def test_an_alpha_of_1_is_distillation_alone_and_reads_no_reward() -> None:
    given = near()
    given["numbers"] = {}
    out = evaluate("sleep", given, overrides={"alpha": 1.0})
    assert list(out["terms"]) == ["distill"]
    assert out["loss"] == pytest.approx(distilled(given, 1.0, given["student_logits"]), rel=1e-12)
    given["teacher_logits"] = {"teacher": given["student_logits"]}
    out = evaluate("sleep", given, overrides={"alpha": 1.0, "lmbda": 0.5})
    assert out["loss"] == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(out["grad"], 0, atol=1e-15)


def test_an_alpha_of_0_is_reinforcement_alone_and_scores_no_teacher() -> None:
    given = near()
    del given["teacher_logits"]
    out = evaluate("sleep", given, overrides={"alpha": 0.0})
    assert list(out["terms"]) == ["imitate"]
    assert out["loss"] == pytest.approx(reinforced(given, 0.5, given["student_logits"]), rel=1e-12)
    recipe = with_knobs(recipe_named("sleep"), {"alpha": 0.0})
    assert dict(recipe.teachers) == {}
    assert list(recipe.writers) == ["teacher"]


def test_the_two_ends_of_lambda_train_the_students_tokens_or_the_dreams() -> None:
    given = near()
    own, dreams = parts(given)
    for lmbda, trained in ((1.0, own), (0.0, dreams)):
        out = evaluate("sleep", given, overrides={"alpha": 1.0, "lmbda": lmbda})["grad"]
        assert (out[~trained] == 0).all()
        assert (np.abs(out[trained]).max(-1) > 0).all()


def test_what_the_teacher_began_is_not_trained_in_a_text_retold() -> None:
    """Its first tokens stand unmarked in a row of the student's."""
    given = near()
    own, dreams = parts(given)
    assert (given["mask"] & ~own & ~dreams).any(), "no prefix: this test shows nothing"
    out = evaluate("sleep", given, overrides={"lmbda": 0.5})["grad"]
    assert (out[given["mask"] & ~own & ~dreams] == 0).all()


def test_equal_rewards_of_all_retellings_of_a_dream_reinforce_nothing_whatever_the_dream_has() -> None:
    given = near()
    own, _ = parts(given)
    given["numbers"] = {name: np.where(own.any(1), 1.0, 0.0) for name in ("same", "alike")}
    out = evaluate("sleep", given, overrides={"alpha": 0.0})
    assert out["loss"] == 0
    assert not out["grad"].any()


def test_another_divergence_is_the_registrys() -> None:
    given = near()
    out = evaluate("sleep", given, overrides={"alpha": 1.0, "lmbda": 0.4, "divergence": "reverse-kl"})
    expected = distilled(given, 0.4, given["student_logits"], reverse=True)
    assert out["loss"] == pytest.approx(expected, rel=1e-12)
    assert set(out["terms"]) == {"distill", "dreams"}
    both = evaluate("sleep", given, overrides={"alpha": 1.0, "lmbda": 0.4, "divergence": "wiener"})
    assert set(both["terms"]) == {
        "distill/reverse", "distill/forward", "dreams/reverse", "dreams/forward",
    }  # fmt: skip


def test_how_well_dreams_are_retold_is_reported() -> None:
    given = near()
    rows = parts(given)[0].any(1)
    found = evaluate("sleep", given)["metrics"]
    for name in ("same", "alike"):
        assert found[f"retold/{name}"] == pytest.approx(given["numbers"][name][rows].mean(), rel=1e-6)


# --- dreams and what is made of them -----------------------------------------------------------------------------


class Scripted:
    """Tools whose teacher dreams 1 2 3 4, and whose student goes on well the first time and badly the second."""

    def __init__(self, room: int = 100) -> None:
        self.room, self.prefixes, self.asked = room, list[list[int]](), list[str]()

    def sample(self, begun: Any, n: int = 1, *, role: str = "student", **how: Any) -> list[Trajectory]:
        if role == "judge":
            assert how == {"max_tokens": 4, "temperature": 0.0}
            return [said([i], " Yes." if i % 2 == 0 else "no") for i in range(len(begun))]
        if role == "teacher":
            return [said([1, 2, 3, 4], "1234", role) for _ in begun]
        self.prefixes = [one.ids for one in begun]
        return [
            one.extended(
                Segment([*[1, 2, 3, 4][len(one.ids) : 3], last], "student"), f"123{last}", finished=True
            )
            for one in begun
            for last in (4, 9)
        ]

    def grade(self, ones: Any) -> list[Trajectory]:
        return [one.graded(Grade(0.0, claim=one.text[-1])) for one in ones]

    def prompt(self, one: Trajectory, view: Any, room: int) -> Prompt | None:
        self.asked.append(one.example.private.get("retold", ""))
        return Prompt(one.example, [1], 0) if room <= self.room else None

    def cut(self, one: Trajectory, tokens: int) -> Trajectory:
        return one.head(tokens, text="")

    def random(self, name: str) -> Random:
        return Random(name)


def said(ids: list[int], text: str, author: str = "student") -> Trajectory:
    asked = Example("x", (Message(role="user", content="?"),))
    return Trajectory.written(asked, [1], ids, text, group=0, finished=True, origin=author)


def rollout(tools: Scripted, **knobs: Any) -> list[Trajectory]:
    recipe = with_knobs(RECIPES["sleep"](), {"per_prompt": 2, "max_tokens": 8, **knobs})
    prompts = [Prompt(said([], "").example, [1], i) for i in range(40)]
    return list(recipe.rollout(tools, prompts, 0))  # type: ignore[arg-type]


@pytest.mark.parametrize("judge", ["claim", "text", "model"])
def test_a_text_is_held_against_the_dream_that_it_began_with(judge: str) -> None:
    tools = Scripted()
    rows = rollout(tools, judge=judge)
    assert len(rows) == 80
    assert {len(prefix) for prefix in tools.prefixes} == {0, 1, 2, 3}
    for i, one in enumerate(rows):
        assert one.numbers["alike"] == (1.0 if i % 2 == 0 else 0.75)
        assert one.numbers["same"] == float(i % 2 == 0)
        prefix = tools.prefixes[i // 2]
        assert one.marks["completed"] == [False] * len(prefix) + [True] * (4 - len(prefix))
    assert ("1234" in tools.asked) == (judge == "model")


def test_dreams_are_rows_of_their_own_where_they_are_distilled() -> None:
    assert len(rollout(Scripted(), lmbda=0.5)) == 120
    dreams = rollout(Scripted(), lmbda=0.0, alpha=1.0)
    assert len(dreams) == 40
    assert not any(any(one.marks["completed"]) for one in dreams)
    assert len(rollout(Scripted(), lmbda=0.5, alpha=0.0)) == 80


def test_without_a_prefix_or_room_for_one_the_student_answers_the_prompt() -> None:
    for tools, knobs in ((Scripted(), {"prefix": 0.0}), (Scripted(room=8), {})):
        rollout(tools, **knobs)
        assert {len(prefix) for prefix in tools.prefixes} == {0}


# --- the night ---------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "lora_rank": 2, "lora_alpha": 4, "per_prompt": 2, "prompts": 2, "steps": 2, "wake_steps": 2, "max_tokens": 6,
    "lr": 1e-2, "wake_lr": 1e-2, "reference": "worked",
}  # fmt: skip


def sleeping(**knobs: Any) -> Any:
    return with_knobs(recipe_named("sleep"), {**SMALL, **knobs})


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(5, 25).reshape(2, 10)).logits
    return found


def test_the_stages_are_a_wake_that_is_reset_and_a_night_that_it_teaches() -> None:
    wake, night = sleeping().stages.values()
    assert (wake.trained["policy"].start, night.trained["policy"].start) == ("previous", "base")
    assert wake.optimization.steps == 2
    assert night.teachers["teacher"].weights == Snapshot("wake")
    (alone,) = sleeping(teacher="folder").stages.values()
    assert alone.teachers["teacher"].weights == External("folder")
    assert alone.trained["policy"].start == "previous"


def test_a_new_expert_leaves_the_base_as_it_was_and_alone_is_trained(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(sleeping(), tiny, tmp_path)
    model = learner.policy.model

    def now() -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    first = now()
    expert = set(learner.policy.trainable())
    assert expert == {name for name in first if "lora_" in name}
    assert all("_proj.lora_" in name and ".mlp." in name for name in expert)
    with learner.policy.adapters_off():
        base = logits(model)
    assert torch.equal(logits(model), base), "the second factor begins at 0"
    for _ in range(2):
        run.step()
    awake, woken = now(), logits(model)
    assert not torch.equal(woken, base)

    run.enter(1)
    for name, weight in now().items():
        assert torch.equal(weight, first[name]), "the fast memory is reset to where it began"
    assert torch.equal(logits(model), base), "the expanded student is the base"
    weights = learner.models.weights
    with weights.scoring(Snapshot("wake")) as teacher:
        assert torch.equal(logits(teacher.model), woken)

    for _ in range(2):
        run.step()
    last = now()
    for name in first:
        assert torch.equal(last[name], first[name]) == (name not in expert), name
    with learner.policy.adapters_off():
        assert torch.equal(logits(model), base)
    with weights.scoring(Snapshot("wake")) as teacher:
        assert torch.equal(logits(teacher.model), woken), "the teacher is frozen"
    assert any(not torch.equal(last[name], awake[name]) for name in expert)


def test_a_teacher_is_a_run_that_was_awake_its_adapter_on_its_base(tiny: str, tmp_path: Path) -> None:
    wake = tmp_path / "wake"
    words = (
        f"sft --task table --model {tiny} --reference worked --lr 1e-2 --steps 2 --prompts 2 --lora-rank 2"
    )
    config, _ = configured([*words.split(), "--eval-problems", "0", "--out", str(wake)])
    launch(config, Silent, Silent, check=False)
    run, learner = run_of_recipe(sleeping(teacher=str(wake)), tiny, tmp_path / "sleep")
    known = load_policy(resolve_model(str(wake))).model.double()
    base = load_policy(tiny).model.double()
    with learner.models.weights.scoring(External(str(wake))) as teacher:
        teacher.model.double()
        torch.testing.assert_close(logits(teacher.model), logits(known), rtol=0, atol=0)
        assert not torch.equal(logits(teacher.model), logits(base))
    assert torch.equal(logits(learner.policy.model), logits(base))
    run.step()


def test_without_expansion_all_weights_go_back_and_are_trained(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(sleeping(lora_rank=0), tiny, tmp_path)
    base = logits(learner.policy.model)
    run.step()
    run.enter(1)
    assert torch.equal(logits(learner.policy.model), base)
    run.step()
    assert not torch.equal(logits(learner.policy.model), base)


def test_a_rollout_of_the_real_tools_begins_with_the_dreams_own_tokens(tiny: str, tmp_path: Path) -> None:
    run, learner = run_of_recipe(sleeping(lmbda=0.5, judge="model"), tiny, tmp_path)
    run.step()
    run.enter(1)
    rows = learner.recipe.rollout(learner.writing.tools(0), learner.writing.prompts.take(2), 0)
    assert isinstance(learner.recipe.writers["judge"].weights, Frozen)
    for dream, *retold in (rows[:3], rows[3:]):
        assert set(dream.authors) == {"teacher"}
        for one in retold:
            given = one.marks["completed"].index(True)
            assert one.ids[:given] == dream.ids[:given]
            assert given < len(dream.ids)
            assert one.authors == ["teacher"] * given + ["student"] * (len(one.ids) - given)
            assert one.numbers["alike"] == likeness(one.ids, dream.ids)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [({"per_prompt": 1}, "per_prompt"), ({"divergence": "sampled", "lmbda": 0.5}, "set lmbda to 1")],
)
def test_what_cannot_be_meant_is_refused(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        with_knobs(recipe_named("sleep"), knobs)
    assert with_knobs(recipe_named("sleep"), {"per_prompt": 1, "alpha": 1.0})
    assert isinstance(recipe_named("sleep"), Sleep)
