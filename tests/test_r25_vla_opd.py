"""VLA-OPD: its losses in closed form, what it is taught by, and runs in a grid world and in the plane."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import selfteach
from arrays import log_softmax
from cut import require_goes_on
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.r25_vla_opd import VLAOPD
from selfteach.task.embodied.named import task_named
from selfteach.testing import evaluate_outputs
from selfteach.training.clock import Clock
from selfteach.training.embodied.demonstrations import expert_plays
from selfteach.training.embodied.token_policy import ActionTokens, TokenPolicy
from selfteach.training.embodied.vla_opd import VLAOPDLearner
from selfteach.training.trainer import Settings

N, D, K = 7, 2, 5
TAU = np.array([0, 0, 0, 1, 2, 2, 2])


def recipe(**knobs: Any) -> VLAOPD:
    return with_knobs(VLAOPD(), knobs)


def given(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "log_pi": log_softmax(rng.normal(size=(N, D, K))),
        "log_pi_T": log_softmax(rng.normal(size=(N, D, K))),
        "a": rng.integers(0, K, (N, D)),
        "tau": TAU,
        "A": rng.normal(size=3)[TAU],
    }


def loss_of(own: VLAOPD, outputs: dict[str, np.ndarray], step: int = 0) -> float:
    return float(evaluate_outputs(own, outputs, step)["losses"]["network"])


def by_episode(each: np.ndarray) -> float:
    """[n, D] → the mean over episodes of their tokens' means."""
    return float(np.mean([each[one == TAU].mean() for one in np.unique(TAU)]))


def taken(log_p: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return np.take_along_axis(log_p, tokens[..., None], -1)[..., 0]


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["reverse-kl", "exact", "forward-kl", "cross-entropy", "grpo", "sft"])
def test_a_loss_is_its_closed_form(objective: str) -> None:
    outputs = given()
    log_pi, log_pi_T, a = outputs["log_pi"], outputs["log_pi_T"], outputs["a"]
    own = taken(log_pi, a)
    each = {
        "reverse-kl": -(taken(log_pi_T, a) - own) * own,
        "exact": (np.exp(log_pi) * (log_pi - log_pi_T)).sum(-1),
        "forward-kl": (np.exp(log_pi_T) * (log_pi_T - log_pi)).sum(-1),
        "cross-entropy": -taken(log_pi, log_pi_T.argmax(-1)),
        "grpo": -outputs["A"][:, None] * own,
        "sft": -own,
    }[objective]
    knobs = {"estimator": "exact"} if objective == "exact" else {"objective": objective}
    assert loss_of(recipe(**knobs), outputs) == pytest.approx(by_episode(each), abs=1e-12)


def gradient(own: VLAOPD, logits: torch.Tensor, log_pi_T: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    n = len(a)
    outputs = {
        "log_pi": logits.log_softmax(-1).expand(n, -1, -1),
        "log_pi_T": log_pi_T.expand(n, -1, -1),
        "a": a,
        "tau": torch.arange(n),
        "A": torch.zeros(n, dtype=torch.float64),
    }
    own.loss("network", outputs, 0).backward()
    assert logits.grad is not None
    return logits.grad


def test_the_sampled_gradient_has_the_mean_of_the_divergences() -> None:
    """Summed over all values of the token, each as often as the student takes it: the gradient of KL(π ‖ π_T)."""
    torch.manual_seed(0)
    logits, teacher = torch.randn(2, 1, 1, K, dtype=torch.float64)
    p, log_pi_T = logits.softmax(-1)[0, 0], teacher.log_softmax(-1)
    mean = torch.zeros_like(logits)
    for value in range(K):
        mean += p[value] * gradient(recipe(), logits, log_pi_T, torch.tensor([[value]]))
    exact = gradient(recipe(estimator="exact"), logits, log_pi_T, torch.tensor([[0]]))
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-14)


def test_where_both_agree_nothing_is_to_be_learned() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 1, K, dtype=torch.float64)
    for value in range(K):
        assert (
            not gradient(recipe(), logits, logits.log_softmax(-1), torch.tensor([[value]]))
            .abs()
            .gt(1e-15)
            .any()
        )


def test_only_what_trains_has_a_gradient_and_the_teacher_moves_it() -> None:
    outputs = given()
    moved, other = (
        evaluate_outputs(recipe(), one)["grads"]["network"]
        for one in (outputs, {**outputs, "log_pi_T": given(1)["log_pi_T"]})
    )
    assert set(moved) == {"log_pi"}
    assert not np.allclose(moved["log_pi"], other["log_pi"])


def test_grpo_begins_where_distillation_ends() -> None:
    both, outputs = recipe(reinforce_steps=5, steps=10), given()
    assert loss_of(both, outputs, 9) == loss_of(recipe(), outputs)
    assert loss_of(both, outputs, 10) == loss_of(recipe(objective="grpo"), outputs)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"batch_size": 12}, "no multiple of per_seed"),
        ({"objective": "grpo", "per_seed": 1}, "per_seed be 2 or more"),
        ({"reinforce_steps": 1, "per_seed": 1}, "per_seed be 2 or more"),
        ({"bins": 1}, "bins must be 2"),
        ({"estimator": "exact", "objective": "forward-kl"}, "is reverse-kl's"),
        ({"unseen": "babyai:GoToLocal"}, "name another"),
        ({"environment": ""}, "environment is empty"),
    ],
)
def test_what_does_not_go_together_is_refused(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        recipe(**knobs)


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_actions_become_the_tokens_that_become_them() -> None:
    box = ActionTokens("own", spaces.Box(np.float32([-1, 0]), np.float32([1, 4])), 8)
    tokens = torch.stack([torch.arange(8), torch.arange(8).flip(0)], 1)
    assert torch.equal(box.encoded(torch.from_numpy(box.decoded(tokens))), tokens)
    assert torch.equal(box.encoded(torch.tensor([[-9.0, 9.0]])), torch.tensor([[0, 7]]))
    discrete = ActionTokens("own", spaces.Discrete(3), 8)
    assert (discrete.dims, discrete.values) == (1, 3)
    assert torch.equal(discrete.encoded(torch.tensor([2, 0])), torch.tensor([[2], [0]]))


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "have no bounds"),
        (spaces.Box(-1, 1, (2, 2)), "a Box of one axis"),
        (spaces.MultiBinary(2), "this method takes"),
        (spaces.Discrete(3, start=1), "not counted from 0"),
    ],
)
def test_actions_that_are_no_tokens_are_refused(space: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        ActionTokens("own", space, 8)


def test_a_policy_tells_every_field_and_word_of_a_grid_apart() -> None:
    task = task_named("babyai:GoToObj")
    envs = task.make(1)
    seen, _ = envs.reset(seed=3)
    policy = TokenPolicy(
        task, envs.single_observation_space, ActionTokens("own", spaces.Discrete(7), 8), 8, 0
    )
    torch.nn.init.normal_(policy.head.weight)
    states = torch.from_numpy(seen).repeat(4, 1)
    states[1, 3 * (7 * 2 + 3)] = 6  # a ball at column 2, row 3
    states[2, 3 * (7 * 3 + 2)] = 6  # and at the mirrored place
    states[3, 7 * 7 * 3] += 1  # another first word
    found = policy(states).detach()
    assert found.exp().sum(-1).numpy() == pytest.approx(1)
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(found[i], found[j])


# --- cloning ----------------------------------------------------------------------------------------------------------


def small(**knobs: Any) -> dict[str, Any]:
    return {
        "environment": "point-reach", "unseen": "", "max_episode_steps": 30, "bins": 7, "width": 16,
        "teacher_demonstrations": 20, "teacher_steps": 30, "demonstrations": 2, "clone_steps": 5,
        "clone_batch_size": 32, "per_seed": 2, "batch_size": 8, "steps": 3, "reinforce_steps": 2,
        "eval_episodes": 4, **knobs,
    }  # fmt: skip


def test_a_noisy_expert_strays_and_its_labels_do_not() -> None:
    task = task_named("point-reach")
    played = expert_plays(task, range(40), 0.5)
    assert played.label is not None
    strayed = (played.action != played.label).any(-1)[played.alive]
    assert 0.3 < strayed.float().mean() < 0.7
    envs = task.make(40)
    envs.reset(seed=0)
    assert task.expert is not None
    assert torch.equal(played.label[0], torch.from_numpy(task.expert(envs, played.observation[0].numpy())))
    sure = expert_plays(task, range(40), 0.0)
    assert sure.label is not None
    assert torch.equal(sure.action, sure.label)
    assert sure.succeeded.all()


def test_student_and_teacher_are_cloned_from_other_episodes_of_every_environment() -> None:
    own = recipe(**small(unseen="point-reach-two-ways"))
    learner = VLAOPDLearner(own, Settings(seed=3))
    teacher, student = learner.of_teacher, learner.of_student
    # 20 and 2 of both, of which those that strayed too far are left out
    assert 20 < len(teacher.episode.unique()) <= 40
    assert student.episode.unique().tolist() == [0, 1, 2, 3]
    starts = {tuple(one.tolist()) for one in teacher.observation}
    assert not any(tuple(one.tolist()) in starts for one in student.observation[:1])
    again = VLAOPDLearner(own, Settings(seed=3)).of_student
    assert torch.equal(again.observation, student.observation)
    assert not torch.equal(
        VLAOPDLearner(own, Settings(seed=4)).of_student.observation[:1], student.observation[:1]
    )


def test_further_imitation_is_of_what_is_trained_on_alone() -> None:
    """The other environment's observations have the goal below."""
    knobs = small(environment="point-reach", unseen="point-reach-slide-back", objective="sft")
    learner = VLAOPDLearner(recipe(**knobs), Settings())
    goals = {}
    for stage in (1, 2):
        learner.enter(stage)
        goals[stage] = learner.collect(0).observation[:, 3].sign().unique().tolist()
    assert goals == {1: [-1.0, 1.0], 2: [1.0]}


def test_groups_begin_alike_and_only_their_own_steps_count() -> None:
    learner = VLAOPDLearner(recipe(**small()), Settings())
    learner.clock = Clock()
    learner.enter(2)
    torch.manual_seed(0)
    batch = learner.collect(0)
    played, fixed = batch
    first = played.observation[0]
    assert torch.equal(first[0::2], first[1::2])
    assert len({tuple(one.tolist()) for one in first}) == 4
    assert len(fixed["a"]) == played.steps == learner.spent(batch)
    assert fixed["tau"].bincount().tolist() == played.alive.sum(0).tolist()


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 5, 7, 9])
def test_a_run_that_breaks_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Cut in each of the four stages."""
    knobs = small(teacher_steps=3, clone_steps=3)
    saved = require_goes_on(VLAOPDLearner, "vla-opd", tmp_path, monkeypatch, total=11, at=at, **knobs)
    for kind in ("/weights/network", "/weights/teacher", "/optimizers/network"):
        assert any(place.startswith(kind) for place in saved), kind


def test_a_grid_world_is_learned_in_and_shown(tmp_path: Path) -> None:
    knobs = small(environment="babyai:GoToObj", unseen="babyai:PickupLoc", max_episode_steps=12, steps=1)
    run = selfteach.train("vla-opd", out=tmp_path / "run", **knobs)
    assert 0 <= dict(run.curve("eval/unseen"))[38] <= 1
    assert 0 <= dict(run.curve("eval/teacher"))[38] <= 1
    assert "a row an episode" in (tmp_path / "run" / "report.html").read_text()


def test_environments_that_differ_are_not_cloned_together() -> None:
    with pytest.raises(UserError, match="leave unseen empty"):
        VLAOPDLearner(recipe(**small(unseen="babyai:GoToObj")), Settings())
    with pytest.raises(UserError, match="no expert"):
        VLAOPDLearner(recipe(**small(environment="gymnasium:Pendulum-v1")), Settings())


def test_without_a_signal_of_success_returns_are_compared_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is always 0 is nobody's reward."""
    silent = replace(task_named("point-reach-dense"), success=None)
    monkeypatch.setattr("selfteach.training.embodied.learner.task_named", lambda name: silent)
    learner = VLAOPDLearner(recipe(**small(objective="grpo")), Settings())
    learner.clock = Clock()
    learner.enter(2)
    torch.manual_seed(0)
    batch = learner.collect(0)
    assert batch.fixed["A"].abs().max() > 0.1
    assert learner.metrics(batch, ())["reward/mean"] == pytest.approx(float(batch.played.returns.mean()))
    found = learner.evaluate("train")
    assert found["eval/headline"] == found["eval/return"] != 0
    assert found["eval/teacher"] != 0
    assert "eval/success" not in found
