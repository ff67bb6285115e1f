"""RPD: the loss by hand and its identities, PPO's weights beside stable-baselines3's, teachers, runs, refusals."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

import acting
import selfteach
from cut import QUIET, require_goes_on
from outputs import require_slopes
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.recipes import with_knobs
from selfteach.recipes.r53_rpd import RPD
from selfteach.task.embodied.named import task_named
from selfteach.task.embodied.task import EmbodiedTask
from selfteach.testing import evaluate_outputs
from selfteach.training.embodied.rollout import play
from selfteach.training.embodied.rpd import Rollouts, RPDLearner
from selfteach.training.embodied.teacher import ActionTeacher
from selfteach.training.progress import Silent
from selfteach.training.trainer import Settings, Trainer

ACTING = acting.__file__
N, D = 6, 3
Arrays = dict[str, np.ndarray]
ALONE = {"ppo": False}
SMALL: dict[str, Any] = {
    "environment": "point-reach-dense", "num_envs": 4, "num_steps": 60, "epochs": 2, "batch_size": 50, "width": 8,
    "depth": 1, "eval_episodes": 8, "steps": 6, "lr": 1e-2, "teacher_bias": 0.3, "gamma": 0.9,
}  # fmt: skip


def given(seed: int = 0, **changed: Any) -> Arrays:
    rng = np.random.default_rng(seed)
    mu, a, a_T = rng.normal(size=(3, N, D))
    log_std = rng.normal(-0.5, 0.2, D)
    arrays = {
        "mu": mu, "log_std": log_std, "V": rng.normal(size=N), "a": mu + 0.5 * a, "A": rng.normal(size=N),
        "R": rng.normal(size=N), "a_T": a_T, "std_T": rng.uniform(0.3, 0.9, (N, D)),
    }  # fmt: skip
    arrays["log_p_old"] = log_density(arrays) + rng.normal(0, 0.3, N)
    return {**arrays, **changed}


def log_density(arrays: Arrays, of: str = "a") -> np.ndarray:
    gap = (arrays[of] - arrays["mu"]) / np.exp(arrays["log_std"])
    found: np.ndarray = (-(gap**2) / 2 - arrays["log_std"] - math.log(2 * math.pi) / 2).sum(1)
    return found


def evaluated(arrays: Arrays, step: int = 0, **knobs: Any) -> tuple[float, dict[str, np.ndarray]]:
    out = evaluate_outputs("rpd", arrays, step, overrides=knobs)
    return out["losses"]["network"], out["grads"]["network"]


# --- the loss -----------------------------------------------------------------------------------------------------


def ppo_by_hand(arrays: Arrays, clip: float, c_v: float, c_e: float) -> float:
    A = (arrays["A"] - arrays["A"].mean()) / (arrays["A"].std(ddof=1) + 1e-8)
    ratio = np.exp(log_density(arrays) - arrays["log_p_old"])
    surrogate = np.minimum(ratio * A, ratio.clip(1 - clip, 1 + clip) * A).mean()
    entropy = (arrays["log_std"] + 0.5 * math.log(2 * math.pi * math.e)).sum()
    return float(-surrogate + c_v * ((arrays["V"] - arrays["R"]) ** 2).mean() / 2 - c_e * entropy)


def distance_by_hand(arrays: Arrays, distance: str, clip: float = 0.2) -> float:
    mu, a_T, std, std_T = (
        arrays[one] if one != "std" else np.exp(arrays["log_std"]) for one in ("mu", "a_T", "std", "std_T")
    )
    match distance:
        case "mse":
            return float(((mu - a_T) ** 2).mean())
        case "l1":
            return float(np.abs(mu - a_T).mean())
        case "nll":
            return float(-log_density(arrays, "a_T").mean())
    kl = (np.log(std_T / std) + (std**2 + (mu - a_T) ** 2) / (2 * std_T**2) - 0.5).sum(1)
    ratio = np.exp(log_density(arrays) - arrays["log_p_old"])
    return float((kl * np.maximum(ratio, 1 - clip)).mean())


@pytest.mark.parametrize("distance", ["mse", "l1", "nll", "kl"])
def test_the_whole_loss_by_hand(distance: str) -> None:
    arrays = given()
    knobs = {
        "distance": distance,
        "teacher_samples": 4,
        "distill_weight": 0.7,
        "clip_range": 0.1,
        "ent_coef": 0.03,
    }
    expected = ppo_by_hand(arrays, 0.1, 0.25, 0.03) + 0.7 * distance_by_hand(arrays, distance, 0.1)
    assert evaluated(arrays, vf_coef=0.25, **knobs)[0] == pytest.approx(expected, rel=1e-10)
    alone, _ = evaluated(arrays, ppo=False, **knobs)
    assert alone == pytest.approx(0.7 * distance_by_hand(arrays, distance, 0.1), rel=1e-10)


@pytest.mark.parametrize("distance", ["mse", "l1", "nll", "kl"])
def test_gradients_are_finite_differences_and_reach_the_student_alone(distance: str) -> None:
    knobs = {"distance": distance, "teacher_samples": 4}
    require_slopes("rpd", given(), "network", ("mu", "log_std", "V"), **knobs)
    of = ("mu",) if distance in ("mse", "l1") else ("mu", "log_std")
    require_slopes("rpd", given(), "network", of, ppo=False, **knobs)


def test_the_ratios_gradient_is_in_the_kl() -> None:
    """∂/∂μ of KL · max(ρ, 1 − ε) is that of KL, times the maximum, plus KL ∂ρ/∂μ where ρ is the larger."""
    arrays = given()
    arrays["log_p_old"] = log_density(arrays) + np.array(
        [1.0, 1.0, 1.0, 0.0, 0.0, -1.0]
    )  # ρ: three below 1 − ε
    _, grads = evaluated(arrays, ppo=False, distance="kl", teacher_samples=2)
    std = np.exp(arrays["log_std"])
    ratio = np.exp(log_density(arrays) - arrays["log_p_old"])[:, None]
    kl = (
        np.log(arrays["std_T"] / std)
        + (std**2 + (arrays["mu"] - arrays["a_T"]) ** 2) / (2 * arrays["std_T"] ** 2)
        - 0.5
    ).sum(1, keepdims=True)
    of_kl = (arrays["mu"] - arrays["a_T"]) / arrays["std_T"] ** 2 * np.maximum(ratio, 0.8)
    of_ratio = kl * ratio * (arrays["a"] - arrays["mu"]) / std**2 * (ratio > 0.8)
    np.testing.assert_allclose(grads["mu"], (of_kl + of_ratio) / N, rtol=1e-9)


def test_equal_fixed_deviations_make_all_of_them_the_squared_error() -> None:
    """KL = d · MSE/(2 s²) where ρ = 1; the gradient of −log π in the mean is d/(2 s²) times MSE's."""
    s = 0.4
    arrays = given(log_std=np.full(D, math.log(s)), std_T=np.full((N, D), s))
    arrays["log_p_old"] = log_density(arrays)
    mse, slope = evaluated(arrays, **ALONE)
    kl, _ = evaluated(arrays, distance="kl", teacher_samples=2, **ALONE)
    assert kl == pytest.approx(D * mse / (2 * s**2), rel=1e-10)
    _, nll = evaluated(arrays, distance="nll", **ALONE)
    np.testing.assert_allclose(nll["mu"], D / (2 * s**2) * slope["mu"], rtol=1e-10)


def test_deviations_are_no_variances() -> None:
    """The released code hands deviations over as covariances: of equal means and std 0.5 beside 0.25 it would say
    another number."""
    arrays = given(log_std=np.full(D, math.log(0.5)), std_T=np.full((N, D), 0.25))
    arrays["a_T"], arrays["log_p_old"] = arrays["mu"], log_density(arrays)
    kl, _ = evaluated(arrays, distance="kl", teacher_samples=2, **ALONE)
    assert kl == pytest.approx(D * (math.log(0.25 / 0.5) + 0.5**2 / (2 * 0.25**2) - 0.5), rel=1e-10)
    released = D * (math.log(0.25 / 0.5) / 2 + 0.5 / (2 * 0.25) - 0.5)
    assert abs(kl - released) > 1


def test_a_teacher_without_noise_has_the_least_deviation() -> None:
    arrays = given(std_T=np.zeros((N, D)))
    knobs = {"distance": "kl", "teacher_samples": 2, **ALONE}
    floored = evaluated({**arrays, "std_T": np.full((N, D), 0.05)}, **knobs)[0]
    assert evaluated(arrays, std_floor=0.05, **knobs)[0] == pytest.approx(floored)


def test_without_weight_it_is_ppo_bit_for_bit_whatever_the_teacher() -> None:
    one, other = given(), given(a_T=np.full((N, D), 7.0), std_T=np.full((N, D), 9.0))
    for knobs in ({"distill_weight": 0.0}, {"anneal_steps": 5}):
        (loss, grads), (same, others) = (evaluated(arrays, step=5, **knobs) for arrays in (one, other))
        assert loss == same == pytest.approx(ppo_by_hand(one, 0.2, 0.5, 0.0), rel=1e-12)
        for name, slope in grads.items():
            np.testing.assert_array_equal(slope, others[name])


def test_the_weight_falls_by_half_a_cosine() -> None:
    recipe = with_knobs(RPD(), {"anneal_steps": 100, "distill_weight": 2.0})
    assert [recipe.weight(step) for step in (0, 50, 100, 10_000)] == pytest.approx([2, 1, 0, 0], abs=1e-12)
    assert recipe.weight(100) == 0
    assert recipe.weight(25) == pytest.approx(1 + math.cos(math.pi / 4))
    assert {RPD().weight(step) for step in (0, 4000)} == {1.0}
    early, late = (evaluated(given(), step, anneal_steps=100)[0] for step in (0, 50))
    assert early - late == pytest.approx(0.5 * distance_by_hand(given(), "mse"), rel=1e-9)


def test_a_single_transition_keeps_its_advantage() -> None:
    one = {name: values[:1] if name != "log_std" else values for name, values in given().items()}
    _, grads = evaluated(one, distill_weight=0.0)
    assert np.isfinite(grads["mu"]).all()
    assert grads["mu"].any()


# --- beside stable-baselines3 --------------------------------------------------------------------------------------


class Spaces(gymnasium.Env[Any, Any]):
    """Nothing but the spaces of point-reach."""

    def __init__(self) -> None:
        envs = task_named("point-reach").make(1)
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space


def trainer_of(**knobs: Any) -> tuple[Trainer, RPDLearner]:
    recipe = with_knobs(RPD(), {**SMALL, **knobs})
    settings = Settings(device="cpu", seed=3)
    learner = RPDLearner(recipe, settings)
    return Trainer(learner, None, Silent(), settings), learner


def theirs(learner: RPDLearner, limit: float | None) -> PPO:
    """A PPO of stable-baselines3 with the learner's settings and weights."""
    recipe = learner.recipe
    how = recipe.optimization
    model = PPO(
        "MlpPolicy", DummyVecEnv([Spaces] * recipe.num_envs), learning_rate=how.lr, n_steps=recipe.num_steps,
        batch_size=how.batch_size, n_epochs=recipe.epochs, gamma=recipe.gamma, gae_lambda=recipe.gae_lambda,
        clip_range=recipe.clip_range, ent_coef=recipe.ent_coef, vf_coef=recipe.vf_coef / 2,
        max_grad_norm=how.max_grad_norm or 1e9, target_kl=None if limit is None else limit / 1.5, device="cpu",
        policy_kwargs={"net_arch": {"pi": [recipe.width], "vf": [recipe.width]}},
    )  # fmt: skip
    model.set_logger(Logger(None, []))
    model.policy.load_state_dict(learner.actor.policy.state_dict())
    return model


def fill(model: PPO, learner: RPDLearner, batch: Rollouts) -> None:
    """Their buffer with our rollouts, advantages by their own code."""
    played, gamma = batch.played, learner.recipe.gamma
    T, E = played.reward.shape
    value = (batch.R - batch.A).view(T, E)
    log_p = batch.log_p_old.view(T, E)
    begins = np.ones(E)
    model.rollout_buffer.reset()
    for t in range(T):
        reward = played.reward[t].clone()
        cut = played.truncated[t]
        with torch.no_grad():
            after = model.policy.predict_values(played.reached[t]).flatten()
        reward[cut] += gamma * after[cut]
        model.rollout_buffer.add(
            played.observation[t].numpy(),
            played.action[t].numpy(),
            reward.numpy(),
            begins,
            value[t],
            log_p[t],
        )
        begins = (played.terminated | played.truncated)[t].numpy()
    model.rollout_buffer.compute_returns_and_advantage(after, begins)


@pytest.fixture
def shuffles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same orders of transitions for both: they count environment by environment, we step by step."""
    T, E = SMALL["num_steps"], SMALL["num_envs"]
    orders = [np.random.default_rng(seed).permutation(T * E) for seed in range(20)]
    own, other = iter(orders), iter(orders)

    def ours(self: Any, n: int) -> torch.Tensor:
        order = next(own)
        return torch.from_numpy(order % T * E + order // T)

    monkeypatch.setattr(RPDLearner, "shuffled", ours)
    monkeypatch.setattr(np.random, "permutation", lambda n: next(other))
    return iter(())


@pytest.mark.parametrize(("limit", "entropy"), [(None, 0.0), (0.02, 0.01)])
def test_without_weight_its_updates_are_those_of_stable_baselines3(
    limit: float | None, entropy: float, shuffles: None
) -> None:
    trainer, learner = trainer_of(
        distill_weight=0.0, finite_horizon=False, target_kl=limit, ent_coef=entropy, lr=1e-2, epochs=4
    )
    torch.manual_seed(0)
    made = 0
    model = theirs(learner, limit)
    for step in range(2):  # the second with Adam in the middle of its way
        batch = learner.collect(step)
        assert batch.played.truncated.any()
        fill(model, learner, batch)
        buffer = model.rollout_buffer
        np.testing.assert_allclose(batch.A.view(buffer.advantages.shape), buffer.advantages, atol=1e-6)
        np.testing.assert_allclose(batch.R.view(buffer.returns.shape), buffer.returns, atol=1e-6)
        made += len([trainer.update(one, batch) for one in learner.updates(batch)])
        model.train()
        ours, others = learner.actor.policy.state_dict(), model.policy.state_dict()
        for name, one in ours.items():
            torch.testing.assert_close(one, others[name], rtol=0, atol=1e-6, msg=name)
    most = 2 * learner.updates_of_a_batch
    assert made == most if limit is None else 0 < made < most


def test_adam_is_that_of_released_ppos() -> None:
    trainer, _ = trainer_of()
    assert trainer.trained["policy"].optimizer.param_groups[0]["eps"] == 1e-5
    assert trainer.trained["policy"].max_grad_norm == 0.5


def test_the_value_behind_an_end_counts_where_it_was_cut_short() -> None:
    for bootstrap, behind in (("truncation", False), ("end", True)):
        _, learner = trainer_of(
            environment=f"{ACTING}:countdown", teacher=f"{ACTING}:still", bootstrap=bootstrap, gae_lambda=0.0
        )
        torch.manual_seed(0)
        batch = learner.collect(0)
        played, last = batch.played, acting.LENGTH - 1
        with torch.no_grad():
            after = learner.actor.value(played.reached[last])
        target = batch.R.view(played.reward.shape)[last]
        cut, ended = played.truncated[last], played.terminated[last]
        torch.testing.assert_close(target[cut], 5 + 0.9 * after[cut])
        torch.testing.assert_close(target[ended], 5 + 0.9 * after[ended] * behind)


# --- teachers -----------------------------------------------------------------------------------------------------


def task_and_teacher(name: str = "expert", **how: Any) -> tuple[EmbodiedTask, ActionTeacher]:
    task = task_named("point-reach")
    return task, ActionTeacher(task, name, **how)


def test_it_is_asked_once_at_each_visited_state(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    own = ActionTeacher.samples_at

    def counted(self: ActionTeacher, envs: Any, seen: Any, generator: Any = None) -> Any:
        asked.append(seen)
        return own(self, envs, seen, generator)

    monkeypatch.setattr(ActionTeacher, "samples_at", counted)
    trainer, learner = trainer_of(epochs=3)
    batch = learner.collect(0)
    for one in learner.updates(batch):
        trainer.update(one, batch)
    assert len(asked) == SMALL["num_steps"]
    torch.testing.assert_close(torch.from_numpy(np.concatenate(asked)), batch.observation)
    assert not batch.std_T.any()


def test_nobody_is_asked_where_there_is_no_weight() -> None:
    _, learner = trainer_of(anneal_steps=3)
    assert learner.collect(2).a_T.isfinite().all()
    assert learner.collect(3).a_T.isnan().all()
    _, learner = trainer_of(environment="gymnasium:Pendulum-v1", distill_weight=0.0)
    assert learner.teacher is None
    assert "eval/teacher" not in learner.evaluate("before")


def test_bias_and_noise_make_it_mediocre_and_keep_to_the_bounds() -> None:
    task, plain = task_and_teacher()
    envs = task.make(400)
    seen, _ = envs.reset(seed=list(range(400)))
    expert = plain.samples_at(envs, seen)
    assert expert.shape == (400, 1, 2)
    _, biased = task_and_teacher(bias=0.3)
    np.testing.assert_allclose(biased.samples_at(envs, seen), np.clip(expert + 0.3, -1, 1), atol=1e-6)
    _, noisy = task_and_teacher(samples=50, noise=0.2)
    samples = noisy.samples_at(envs, seen, torch.Generator().manual_seed(0))
    assert samples.shape == (400, 50, 2)
    assert np.abs(samples).max() <= 1
    inner = np.abs(expert[:, 0]).max(1) < 0.3  # too far from the bounds to be cut
    inner = np.repeat(inner[:, None], 2, 1) if inner.any() else np.abs(expert[:, 0]) < 0.3
    assert samples.std(1, ddof=1)[inner].mean() == pytest.approx(0.2, rel=0.05)
    again = noisy.samples_at(envs, seen, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(samples, again)


def test_samples_are_a_mean_and_a_deviation() -> None:
    _, learner = trainer_of(distance="kl", teacher_samples=10, teacher_noise=0.1)
    torch.manual_seed(0)
    batch = learner.collect(0)
    assert batch.played.label is not None
    samples = batch.played.label.flatten(0, 1).numpy()
    assert samples.shape == (len(batch.a), 10, 2)
    np.testing.assert_allclose(batch.a_T, samples.mean(1), atol=1e-6)
    np.testing.assert_allclose(batch.std_T, samples.std(1, ddof=1), atol=1e-6)


def test_another_teacher_is_another_gradient() -> None:
    found = []
    for bias in (0.3, 0.3, 0.31):
        _, learner = trainer_of(teacher_bias=bias)
        torch.manual_seed(0)
        batch = learner.collect(0)
        next(learner.updates(batch)).backward()
        found.append(learner.actor.policy.action_net.weight.grad.clone())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("infinite", "gave an action that is not finite"),
        ("one_too_many", "gave actions of shape (3, 3), and the environments want (3, 2)"),
        ("too_far", "gave an action 0.5 out of the environment's bounds"),
        ("words", "gave no array of numbers but list"),
        ("raises", "RuntimeError: the server is down"),
    ],
)
def test_what_it_may_not_say_is_refused_in_one_line(name: str, said: str) -> None:
    task, teacher = task_and_teacher(f"{ACTING}:{name}")
    envs = task.make(3)
    seen, _ = envs.reset(seed=[0, 1, 2])
    with pytest.raises(UserError, match=re.escape(said)) as problem:
        teacher.samples_at(envs, seen)
    assert "\n" not in str(problem.value)
    assert f"teacher {ACTING}:{name}" in str(problem.value)


# --- what cannot be trained ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"environment": "babyai:GoToRedBall"}, "actions are Discrete, and the policy is a Gaussian"),
        ({"environment": "gymnasium:CartPole-v1"}, "actions are Discrete"),
        ({"environment": f"{ACTING}:dictionary"}, "observations are Dict, and the policy reads a Box"),
        ({"environment": f"{ACTING}:unbounded"}, "its actions have no bounds"),
        ({"environment": f"{ACTING}:unbounded_below"}, "its actions have no bounds"),
        ({"environment": f"{ACTING}:small_images"}, "images of 20 × 36 are too small for NatureCNN, which wants 36"),
        ({"environment": "gymnasium:Pendulum-v1"}, "environment gymnasium:Pendulum-v1 has no expert"),
        ({"teacher": "expret"}, "teacher 'expret' is none: expert, or FILE.py:NAME"),
        ({"teacher": f"{ACTING}:number"}, "is no function but int"),
        ({"teacher": f"{ACTING}:missing"}, "has no 'missing'"),
        ({"distance": "kl"}, "let teacher_samples be 2 or more"),
        ({"ppo": False, "distill_weight": 0.0}, "without ppo the teacher is all there is"),
        ({"ppo": False, "anneal_steps": 3, "steps": 6}, "without ppo the teacher is all there is"),
        ({"clip_range": 1.0}, "clip_range"),
        ({"gamma": 1.1}, "gamma"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(
    knobs: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        selfteach.train("rpd", out=tmp_path / "python", **{**SMALL, **QUIET, **knobs})
    words = [
        f"--{'no-' * (value is False)}{name.replace('_', '-')}"
        + (f"={value}" if not isinstance(value, bool) else "")
        for name, value in {**SMALL, **knobs}.items()
    ]
    assert main(["train", "rpd", *words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_released_pure_distillation_may_anneal_to_its_last_batch() -> None:
    assert with_knobs(RPD(), {"ppo": False, "anneal_steps": 6, "steps": 6}).weight(5) > 0


# --- runs ---------------------------------------------------------------------------------------------------------


def test_a_run_that_was_cut_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = {
        **SMALL,
        "teacher_samples": 3,
        "teacher_noise": 0.2,
        "distance": "kl",
        "schedule": "cosine",
        "anneal_steps": 5,
    }
    kept = require_goes_on(RPDLearner, "rpd", tmp_path, monkeypatch, total=6, at=5, **knobs)
    assert any("exp_avg" in place for place in kept)


def test_a_run_reads_images_and_its_weights_are_a_policy_of_stable_baselines3(tmp_path: Path) -> None:
    few = {**SMALL, "num_steps": 5, "num_envs": 3, "steps": 2, "eval_episodes": 2}
    own = {"environment": f"{ACTING}:images", "teacher": f"{ACTING}:still"}
    run = selfteach.train("rpd", out=tmp_path / "images", **{**few, **own}, **QUIET)
    weights = load_file(tmp_path / "images" / "model" / "policy.safetensors")
    assert weights["features_extractor.cnn.0.weight"].shape == (32, 3, 8, 8)
    assert np.isfinite(run.summary["eval/return"])
    selfteach.train("rpd", out=tmp_path / "point", **few, **QUIET)
    learner = RPDLearner(with_knobs(RPD(), few), Settings())
    policy = theirs(learner, None).policy
    policy.load_state_dict(load_file(tmp_path / "point" / "model" / "policy.safetensors"))
    seen = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
    learner.actor.policy.load_state_dict(policy.state_dict())
    said, _ = policy.predict(seen, deterministic=True)
    np.testing.assert_allclose(said, np.clip(learner.acting()(seen), -1, 1), atol=1e-6)


def test_what_a_run_writes(tmp_path: Path) -> None:
    run = selfteach.train("rpd", out=tmp_path / "run", **{**SMALL, "steps": 2, "target_kl": None}, **QUIET)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    before, first = rows[0], rows[1]
    task, teacher = (
        task_named(SMALL["environment"]),
        ActionTeacher(task_named("point-reach"), "expert", bias=0.3),
    )
    envs = task.make(8)
    played = play(task, envs, lambda seen: teacher.samples_at(envs, seen)[:, 0], range(8))
    assert before["eval/teacher"] == pytest.approx(float(played.succeeded.double().mean()))
    assert "eval/teacher" not in run.summary
    assert first["spent/environment steps"] == 240
    assert first["updates"] == 10
    assert first["distill_weight"] == 1
    assert first["policy/std"] == pytest.approx(math.exp(-0.5), rel=0.1)
    assert {
        "policy/kl",
        "policy/clipped",
        "policy/entropy",
        "teacher/distance",
        "reward/mean",
    } <= first.keys()
    assert "teacher/distance" not in json.loads(json.dumps(rows[-1]))


def test_pure_distillation_learns_the_teacher_where_the_student_went() -> None:
    trainer, learner = trainer_of(
        ppo=False, teacher_bias=0.0, num_envs=16, epochs=20, target_kl=None, width=32
    )
    torch.manual_seed(0)
    batch = learner.collect(0)
    every = torch.arange(len(batch.a))

    def distance() -> float:
        with torch.no_grad():
            return float(learner.recipe.distances(learner.outputs(batch, every)).mean())

    before, value = distance(), learner.actor.policy.value_net.weight.clone()
    for one in learner.updates(batch):
        trainer.update(one, batch)
    assert distance() < 0.5 * before
    torch.testing.assert_close(learner.actor.policy.value_net.weight, value, rtol=0, atol=0)


def test_a_run_knows_the_file_of_its_teacher_and_finds_it_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (home / "mine.py").write_text(
        "import numpy as np\n\ndef left(seen):\n    return np.full((len(seen), 2), [-1.0, 0.0])\n"
    )
    monkeypatch.chdir(home)
    few = {**SMALL, "teacher": "mine.py:left", "steps": 4, "eval_episodes": 2}

    def broken(self: Any, step: int) -> Any:
        if step == 2:
            raise KeyError
        return collect(self, step)

    collect = RPDLearner.collect
    with monkeypatch.context() as during:
        during.setattr(RPDLearner, "collect", broken)
        with pytest.raises(KeyError):
            selfteach.train("rpd", out="run", checkpoint_every=2, **few, **QUIET)
    monkeypatch.chdir(other)
    run = selfteach.train(resume=True, out=home / "run", progress=None)
    assert run.summary["steps"] == 4
    (home / "mine.py").write_text((home / "mine.py").read_text().replace("-1.0", "1.0"))
    with pytest.raises(UserError, match="teacher"):
        selfteach.train(resume=True, out=home / "run", progress=None)
