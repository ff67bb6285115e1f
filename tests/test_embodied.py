"""What acting policies share: environments by name, the point and its expert, episodes, and what is seen of them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv

import acting
import selfteach
from selfteach.errors import UserError
from selfteach.recipes import network_recipe_named
from selfteach.recipes.r53_rpd import RPD
from selfteach.task.embodied.named import OWN, task_named
from selfteach.task.embodied.point_reach import MAX_STEPS, NEAR, RADIUS, STEP, PointReach, Variant, expert
from selfteach.training import learners
from selfteach.training.embodied.rollout import Transitions, held_out_seeds, play, training_seeds
from selfteach.training.embodied.rpd import RPDLearner
from selfteach.training.trainer import Settings

ACTING = acting.__file__


def zeros(observations: Any) -> Any:
    return np.zeros((len(observations), 2), np.float32)


def as_the_expert(name: str, n: int, **given: Any) -> tuple[Transitions, VectorEnv]:
    task = task_named(name)
    envs, expert = task.make(n), task.expert
    assert expert is not None
    return play(task, envs, lambda seen: expert(envs, seen), held_out_seeds(n), **given), envs


# --- the point ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_the_expert_reaches_every_goal_and_keeps_to_the_bounds(name: str) -> None:
    played, _ = as_the_expert(name, 200)
    assert played.succeeded.all()
    taken = played.kept(played.action)
    assert taken.abs().max() <= 1 + 1e-6
    places = played.kept(played.reached)[:, :2]
    assert places.norm(dim=1).min() > RADIUS


def test_spaces_hold_what_is_seen_and_the_goal_is_where_the_observation_says() -> None:
    played, envs = as_the_expert("point-reach", 20)
    assert envs.single_observation_space.shape == (4,)
    assert envs.single_action_space.shape == (2,)
    for seen in played.kept(played.observation).numpy():
        assert envs.single_observation_space.contains(seen)
    last = played.kept(played.reached)[played.kept(played.terminated)]
    assert len(last) == 20
    assert ((last[:, :2] - last[:, 2:]).norm(dim=1) < NEAR).all()


def test_episodes_follow_from_their_seeds_alone() -> None:
    envs = PointReach(3, Variant(two_ways=True))
    first, _ = envs.reset(seed=[5, 6, 7])
    sides = envs.side.copy()
    envs.step(np.ones((3, 2)))
    envs.reset()
    again, _ = envs.reset(seed=[5, 6, 7])
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(sides, envs.side)
    other, _ = PointReach(2, Variant(two_ways=True)).reset(seed=[7, 5])
    np.testing.assert_array_equal(other, first[[2, 0]])
    counted, _ = PointReach(3, Variant(two_ways=True)).reset(seed=5)
    np.testing.assert_array_equal(counted, first)


def test_a_masked_reset_begins_those_episodes_alone() -> None:
    envs = PointReach(3)
    envs.reset(seed=[1, 2, 3])
    before, *_ = envs.step(np.full((3, 2), 0.3))
    after, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])
    assert envs.taken.tolist() == [1, 0, 1]


def test_the_disc_cannot_be_entered_and_actions_are_cut() -> None:
    envs = PointReach(2)
    envs.reset(seed=[0, 1])
    envs.place = np.array([[0.0, -RADIUS - 0.5 * STEP], [0.0, -0.7]])
    seen, *_ = envs.step(np.array([[0.0, 1.0], [5.0, 0.0]]))
    np.testing.assert_allclose(seen[0, :2], [0, -RADIUS - 0.5 * STEP], rtol=1e-6)
    np.testing.assert_allclose(seen[1, :2], [STEP, -0.7], rtol=1e-6)


def test_on_a_disc_that_one_slides_on_a_step_into_it_ends_on_the_rim() -> None:
    envs = PointReach(1, Variant(slide=True))
    envs.reset(seed=[0])
    envs.place = np.array([[0.1, -RADIUS - 0.5 * STEP]])
    wanted = envs.place[0] + [0, STEP]
    seen, *_ = envs.step(np.array([[0.0, 1.0]]))
    np.testing.assert_allclose(seen[0, :2], wanted / np.linalg.norm(wanted) * RADIUS, rtol=1e-5)


def test_backwards_everything_is_mirrored() -> None:
    forth, back = (PointReach(4, Variant(slide=True, back=one)) for one in (False, True))
    seen, mirrored = (envs.reset(seed=[0, 1, 2, 3])[0] for envs in (forth, back))
    for _ in range(20):
        np.testing.assert_allclose(mirrored, seen * [1, -1, 1, -1], atol=1e-6)
        actions = expert(forth, seen)
        np.testing.assert_allclose(expert(back, mirrored), actions * [1, -1], atol=1e-6)
        seen, reward, *_ = forth.step(actions)
        mirrored, again, *_ = back.step(actions * [1, -1])
        np.testing.assert_array_equal(reward, again)


def test_rewards_are_sparse_or_say_how_much_nearer() -> None:
    sparse, _ = as_the_expert("point-reach", 8)
    assert sparse.returns.tolist() == [1.0] * 8
    dense, _ = as_the_expert("point-reach-dense", 8)
    start = dense.observation[0, :, :2] - dense.observation[0, :, 2:]
    last = dense.alive.sum(0) - 1
    end = dense.reached[last, torch.arange(8)]
    gone = start.norm(dim=1) - (end[:, :2] - end[:, 2:]).norm(dim=1)
    torch.testing.assert_close(dense.returns, 1 + gone)


def test_an_episode_is_cut_short_after_its_longest() -> None:
    task = task_named("point-reach")
    played = play(task, task.make(2), zeros, [0, 1])
    assert len(played.alive) == MAX_STEPS == task.max_steps
    assert played.truncated.sum(0).tolist() == [1, 1]
    assert played.truncated[-1].all()
    assert not played.terminated.any()


# --- episodes -----------------------------------------------------------------------------------------------------


def test_what_is_over_rests_or_begins_anew() -> None:
    task = acting.countdown()
    resting = play(task, task.make(3), zeros, [0, 1, 2], steps=8)
    assert len(resting.alive) == acting.LENGTH
    assert resting.steps == 3 * acting.LENGTH
    assert resting.returns.tolist() == [15.0] * 3
    on = play(task, task.make(3), zeros, [0, 1, 2], steps=8, continuing=True)
    assert on.alive.all()
    assert on.steps == 24
    assert on.reward[:, 0].tolist() == [1, 2, 3, 4, 5, 1, 2, 3]
    assert on.observation[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert on.reached[:, 0, 0].tolist() == [
        1,
        2,
        3,
        4,
        5,
        1,
        2,
        3,
    ]  # what the step came to, not what began then
    assert on.terminated[4].tolist() == [False, True, False]
    assert on.truncated[4].tolist() == [True, False, True]


def test_of_unequal_episodes_a_finished_one_counts_no_more() -> None:
    played, _ = as_the_expert("point-reach", 30)
    lengths = played.alive.sum(0)
    assert len(set(lengths.tolist())) > 1
    assert (played.reward * played.alive).sum() == 30
    for e in range(30):
        over = played.terminated[:, e].nonzero()[0, 0]
        assert played.alive[: over + 1, e].all()
        assert not played.alive[over + 1 :, e].any()
    assert len(played.kept(played.action)) == played.steps == int(lengths.sum())


def test_labels_are_what_was_asked_at_each_state() -> None:
    task = acting.countdown()
    asked = play(task, task.make(2), zeros, [0, 1], ask=lambda seen: 2 * seen)
    assert asked.label is not None
    torch.testing.assert_close(asked.label, 2 * asked.observation)
    assert play(task, task.make(2), zeros, [0, 1]).label is None


def test_training_episodes_are_never_held_out_ones() -> None:
    torch.manual_seed(0)
    assert min(training_seeds(10_000)) > max(held_out_seeds(10**6))


def test_what_is_not_finite_is_refused() -> None:
    task = acting.broken()
    with pytest.raises(UserError, match="environment countdown: a reward is not finite"):
        play(task, task.make(2), zeros, [0, 1])
    task = acting.countdown()
    with pytest.raises(UserError, match="environment countdown: an action is not finite"):
        play(task, task.make(2), lambda seen: zeros(seen) + np.nan, [0, 1])


# --- by name ------------------------------------------------------------------------------------------------------


def test_an_environment_of_gymnasium_without_a_signal_of_success() -> None:
    task = task_named("gymnasium:Pendulum-v1")
    assert task.success is None
    assert task.expert is None
    assert task.max_steps == 200
    act = acting.SwingUp()
    one, other = (play(task, task.make(4), act, held_out_seeds(4)) for _ in range(2))
    assert len(one.alive) == 200
    assert one.alive.all()
    torch.testing.assert_close(one.reward, other.reward, rtol=0, atol=0)
    assert not one.succeeded.any()
    assert one.returns.mean() > -250  # that of doing nothing is about −1200


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("point-rech", "environment 'point-rech' is none; did you mean point-reach"),
        ("gymnasium:Pendulm-v1", "gymnasium has no environment 'Pendulm-v1'; did you mean Pendulum-v1"),
        (f"{ACTING}:mute", "gave int: give a selfteach.task.embodied.task.EmbodiedTask"),
        (f"{ACTING}:none", "has no 'none'"),
    ],
)
def test_what_is_no_environment_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as problem:
        task_named(name)
    assert "\n" not in str(problem.value)


def test_an_environment_without_a_name_is_refused() -> None:
    with pytest.raises(UserError, match="environment is empty"):
        RPD(environment="")


# --- what is seen -------------------------------------------------------------------------------------------------


def test_a_length_is_of_steps_that_were_taken() -> None:
    played, _ = as_the_expert("point-reach", 30)
    learner = RPDLearner(RPD(num_envs=1, distill_weight=0.0), Settings())
    judged = learner.judged(played)
    assert judged["eval/length"] == pytest.approx(played.steps / 30)
    assert judged["eval/length"] < len(played.alive)
    assert judged["eval/headline"] == judged["eval/success"] == 1
    assert judged["eval/headline_se"] == 0


def test_the_headline_is_the_success_rate_or_the_return(tmp_path: Any) -> None:
    few = {
        "steps": 1, "num_envs": 2, "num_steps": 4, "width": 8, "eval_episodes": 6, "samples_every": 0,
        "device": "cpu", "progress": None, "epochs": 1, "batch_size": 8,
    }  # fmt: skip
    told = selfteach.train("rpd", environment="point-reach", out=tmp_path / "told", **few).summary
    assert told["headline"] == told["eval/success"]
    assert told["eval/length"] <= MAX_STEPS
    mute = selfteach.train(
        "rpd", environment="gymnasium:Pendulum-v1", teacher=f"{ACTING}:swing_up", out=tmp_path / "m", **few
    )
    assert mute.summary["headline"] == mute.summary["eval/return"] < 0
    assert "eval/success" not in mute.summary
    assert mute.summary["eval/length"] == 200


@pytest.mark.parametrize(("name", "package"), [("rpd", "stable_baselines3"), ("rti-dp", "diffusers")])
def test_a_package_that_is_missing_is_named_with_what_brings_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learners, "find_spec", lambda one: None if one == package else object())
    with pytest.raises(UserError, match=rf"needs the package {package}.*selfteach\[embodied\]"):
        learners.learner_kind(network_recipe_named(name))
