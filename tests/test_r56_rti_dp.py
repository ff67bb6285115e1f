"""RTI-DP: the guess, the steps that are kept, what they contract, whose chunk it is, and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import selfteach
from cut import require_goes_on
from selfteach.cli import main
from selfteach.errors import UserError
from selfteach.objective.transition import ddpm_contraction
from selfteach.recipes import with_knobs
from selfteach.recipes.r56_rti_dp import RTIDP
from selfteach.task.embodied.named import task_named
from selfteach.task.embodied.point_reach import JUMPS, PointReach, side_taken, succeeded
from selfteach.task.embodied.point_reach import expert as point_expert
from selfteach.task.embodied.task import EmbodiedTask
from selfteach.testing import evaluate_outputs
from selfteach.training.embodied.diffusion_policy import (
    Range,
    chunks,
    clipped_guess,
    denoised,
    gain,
    moved_on,
    scheduler_of,
)
from selfteach.training.embodied.rollout import Transitions, play
from selfteach.training.embodied.rti_dp import ActionSampler, Plan, RTIDPLearner, plan_of, switches
from selfteach.training.trainer import Settings

TINY: dict[str, Any] = {
    "environment": "point-reach-two-ways", "demonstrations": 4, "eval_episodes": 3, "diffusion_steps": 5,
    "horizon": 4, "n_action_steps": 3, "width": 8, "depth": 1, "steps": 4, "batch_size": 8, "warmup": 0,
}  # fmt: skip
QUIET: dict[str, Any] = {"samples_every": 0, "device": "cpu", "progress": None}
K = 100


def learner(**knobs: Any) -> RTIDPLearner:
    made = RTIDPLearner(with_knobs(RTIDP(), {**TINY, **knobs}), Settings(device="cpu"))
    made.roles(made.modules())
    return made


def exact(scheduler: Any, mean: float, variance: float) -> Any:
    """The optimal denoiser of N(mean, variance), in float64, and the scheduler's numbers made float64 with it."""
    scheduler.alphas_cumprod, scheduler.one = scheduler.alphas_cumprod.double(), scheduler.one.double()

    def predict(noisy: torch.Tensor, k: int) -> torch.Tensor:
        kept = scheduler.alphas_cumprod[k]
        return (1 - kept).sqrt() * (noisy - kept.sqrt() * mean) / (kept * variance + 1 - kept)

    return predict


# --- the loss, the demonstrations -----------------------------------------------------------------------------------


def test_the_loss_is_the_mean_square_of_what_the_prediction_lacks() -> None:
    rng = np.random.default_rng(0)
    noise, said = rng.normal(size=(2, 5, 4, 2))
    out = evaluate_outputs("rti-dp", {"epsilon": noise, "epsilon_theta": said})
    assert out["losses"]["network"] == pytest.approx(((said - noise) ** 2).mean(), rel=1e-12)
    grads = out["grads"]["network"]
    assert grads.keys() == {"epsilon_theta"}
    np.testing.assert_allclose(grads["epsilon_theta"], 2 * (said - noise) / noise.size)


def test_chunks_are_each_steps_actions_and_repeat_an_episodes_last() -> None:
    alive = torch.tensor([[True, True], [True, True], [True, False]])
    action = torch.arange(6).view(3, 2, 1).float()
    none = torch.zeros(3, 2)
    played = Transitions(action * 10, action, None, none, action, alive, alive, alive, alive)
    found = chunks(played, 2)
    assert found.observation[:, 0].tolist() == [0, 10, 20, 30, 40]
    assert found.action[..., 0].tolist() == [[0, 2], [1, 3], [2, 4], [3, 3], [4, 4]]


def test_a_batch_is_noised_as_the_scheduler_does() -> None:
    made = learner()
    torch.manual_seed(0)
    batch = made.collect(0)
    kept = made.scheduler.alphas_cumprod[batch.k][:, None, None]
    noisy = kept.sqrt() * batch.action + (1 - kept).sqrt() * batch.epsilon
    found = made.outputs(batch)
    torch.testing.assert_close(found["epsilon_theta"], made.policy(noisy, batch.k, batch.observation))
    assert batch.action.abs().max() <= 1 + 1e-6


# --- the steps --------------------------------------------------------------------------------------------------------


def test_all_steps_from_noise_are_plain_ddpm_to_the_bit() -> None:
    made = learner(diffusion_steps=K)
    seen, noise = made.data.observation[:6], torch.randn(6, 4, 2)
    predict = made.policy.under(seen)
    ours = denoised(predict, scheduler_of(K), noise, range(K - 1, -1, -1), torch.Generator().manual_seed(1))
    plain, generator, x = scheduler_of(K), torch.Generator().manual_seed(1), noise
    plain.set_timesteps(K)
    with torch.no_grad():
        for k in plain.timesteps:
            said = made.policy(x, k.expand(6), seen)
            x = plain.step(said, k, x, generator=generator).prev_sample
    assert torch.equal(ours, x)


def test_a_sampler_that_keeps_every_step_and_begins_at_noise_is_closed_loop_ddpm() -> None:
    made = learner()
    every = (4, 3, 2, 1, 0)
    envs, seeds = made.task.make(3), [0, 1, 2]
    recipe = with_knobs(made.recipe, {"timesteps": every})
    both = [
        play(made.task, envs, ActionSampler(made.policy, recipe, plan, 5), seeds).action
        for plan in (plan_of(recipe, "cold"), plan_of(recipe, "closed-loop"))
    ]
    assert torch.equal(*both)


@pytest.mark.parametrize("variance", [0.01, 0.25, 1.0, 2.5])
@pytest.mark.parametrize("first", [0, 2, 20, 60])
def test_kept_steps_contract_by_the_closed_form(variance: float, first: int) -> None:
    scheduler = scheduler_of(K, clip_sample=False)
    predict = exact(scheduler, 0.3, variance)
    kept = scheduler.alphas_cumprod[first]
    expected = ddpm_contraction(kept, torch.tensor(variance).double())
    guess = torch.randn(3, 4, 2).double()
    found = gain(predict, scheduler, guess, range(first, -1, -1), seed=0)
    torch.testing.assert_close(found, expected.expand(3), rtol=1e-7, atol=0)
    assert bool(expected < 1) == (variance < 1 + 1 / float(kept) ** 0.5)


def test_the_closed_form_is_that_of_the_card() -> None:
    """s² = 0.01, 0.25, 1 behind 20 steps of noise."""
    kept = scheduler_of(K).alphas_cumprod[19].double()
    found = ddpm_contraction(kept, torch.tensor([0.01, 0.25, 1.0]).double())
    np.testing.assert_allclose(found, [0.086, 0.727, 0.948], atol=6e-4)


def test_a_point_mass_forgets_the_guess() -> None:
    scheduler = scheduler_of(K, clip_sample=False)
    predict = exact(scheduler, 0.3, 0.0)
    far = 100 * torch.randn(5, 4, 2).double()
    found = denoised(predict, scheduler, far, (2, 1, 0), torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, torch.full_like(found, 0.3), rtol=0, atol=1e-9)


def test_a_step_goes_down_by_one_whatever_the_list_says_next() -> None:
    """[3, 1, 0] as [2, 1, 0] does: diffusers' step at k knows k − 1 alone."""
    scheduler = scheduler_of(K, clip_sample=False)
    predict, x = exact(scheduler, 0.0, 0.5), torch.randn(2, 4, 2).double()
    one, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    ours = denoised(predict, scheduler, x, (3, 1), one)
    for k in (3, 1):
        x = scheduler.step(predict(x, k), k, x, generator=other).prev_sample
    assert torch.equal(ours, x)


# --- the guess --------------------------------------------------------------------------------------------------------


def test_the_guess_drops_what_was_executed_and_repeats_the_last() -> None:
    chunk = torch.arange(8).view(1, 4, 2)
    assert moved_on(chunk)[0, :, 0].tolist() == [2, 4, 6, 6]
    assert moved_on(chunk, 3)[0, :, 0].tolist() == [6, 6, 6, 6]
    same = torch.full((2, 4, 2), 0.7)
    assert torch.equal(moved_on(same), same)
    assert torch.equal(moved_on(moved_on(chunk)), moved_on(chunk, 2))


def test_no_noise_is_added_to_the_guess_but_where_it_is_asked_for() -> None:
    made = learner(timesteps=(0,))
    chunk = torch.randn(3, 4, 2)
    for name, mean in (("warm-start", moved_on(chunk)), ("noised", None), ("cold", None)):
        sampler = made.sampler(name)
        plan = sampler.plan
        found = sampler.start(chunk, 0, plan.start)
        if mean is not None:
            assert torch.equal(found, mean)
        noise = torch.randn(chunk.shape, generator=torch.Generator().manual_seed(1_000_003))
        if name == "cold":
            assert torch.equal(found, noise)
        if name == "noised":
            kept = made.scheduler.alphas_cumprod[0]
            torch.testing.assert_close(found, kept.sqrt() * moved_on(chunk) + (1 - kept).sqrt() * noise)


def test_discrete_channels_by_either_rule() -> None:
    mask = torch.tensor([False, True])
    chunk = torch.tensor([[[0.3, 0.02], [0.3, -0.9], [0.3, 0.0]]])
    assert clipped_guess(chunk, mask, 10.0)[0, :, 1].tolist() == pytest.approx([0.1, -0.1, -0.1])
    assert clipped_guess(chunk, mask, 1.0)[0, :, 1].tolist() == [1, -1, -1]
    assert torch.equal(clipped_guess(chunk, mask, 10.0)[..., 0], chunk[..., 0])
    data = torch.tensor([[2.0, 1.0], [6.0, -1.0], [4.0, 1.0]])
    for size in (1.0, 0.1):
        scaled = Range(data, (-1,), size)
        inward = scaled.inward(data)
        torch.testing.assert_close(inward, torch.tensor([[-1.0, size], [1.0, -size], [0.0, size]]))
        torch.testing.assert_close(scaled.outward(inward), data)
    assert Range(data, (-1,)).outward(torch.tensor([0.0, 1e-3]))[1] == 1  # executed by sign


def test_a_constant_channel_becomes_zero_and_comes_back() -> None:
    data = torch.tensor([[2.0, 5.0], [6.0, 5.0]])
    scaled = Range(data)
    assert scaled.inward(data)[:, 1].tolist() == [0, 0]
    torch.testing.assert_close(scaled.outward(scaled.inward(data)), data)


@pytest.mark.parametrize(("rule", "factor"), [("clip", 5.0), ("scale", 5.0)])
def test_the_rules_stand_where_they_belong(rule: str, factor: float) -> None:
    made = learner(environment=f"{__file__}:gripping", discrete=(-1,), discrete_rule=rule, factor=factor)
    inward = made.policy.acted.inward(made.data.action)
    assert inward[..., 2].abs().unique().tolist() == pytest.approx([0.2 if rule == "scale" else 1.0])
    guess = made.sampler("warm-start").guess(torch.randn(4, 4, 3))
    assert ((guess[..., 2].abs() - 0.2).abs() < 1e-6).all() == (rule == "clip")
    played = made.evaluated(made.acting())
    assert set(played.action[..., 2].unique().tolist()) <= {-1.0, 1.0}


# --- whose chunk ------------------------------------------------------------------------------------------------------


def test_an_episode_that_begins_is_denoised_whole_while_the_others_stay_warm() -> None:
    made = learner(timesteps=(0,))  # a step at 0 draws nothing
    seen = made.data.observation[:3].numpy()
    whole, cut = (made.sampler("warm-start") for _ in range(2))
    for one in (whole, cut):
        one.begin(np.ones(3, bool))
        one(seen)
    before = cut.chunk.clone()
    cut.begin(np.array([False, True, False]))
    whole(seen)
    cut(seen)
    assert [one.tolist() for one in cut.calls] == [[5, 5, 5], [1, 5, 1]]
    assert torch.equal(cut.chunk[[0, 2]], whole.chunk[[0, 2]])
    assert not torch.equal(cut.chunk[1], whole.chunk[1])
    predict = made.shown().under(torch.from_numpy(seen)[[0, 2]])
    assert torch.equal(cut.chunk[[0, 2]], denoised(predict, made.scheduler, moved_on(before[[0, 2]]), (0,)))


def test_calls_of_every_sampler() -> None:
    made = learner()
    seen = made.data.observation[:2].numpy()
    for name, calls in (
        ("warm-start", [5, 3, 3, 3, 3]),
        ("full", [5, 0, 0, 5, 0]),
        ("closed-loop", [5] * 5),
        ("cold", [3] * 5),
        ("noised", [5, 3, 3, 3, 3]),
    ):
        act = made.sampler(name)
        act.begin(np.ones(2, bool))
        for _ in calls:
            act(seen)
        assert [one.tolist() for one in act.calls] == [[n, n] for n in calls], name


def test_a_chunk_that_is_executed_further_is_executed_in_turn() -> None:
    made = learner()
    seen = made.data.observation[:2].numpy()
    act = made.sampler("full")
    act.begin(np.ones(2, bool))
    done = [act(seen) for _ in range(3)]
    torch.testing.assert_close(
        torch.from_numpy(np.stack(done, 1)), made.shown().acted.outward(act.chunk[:, :3])
    )


class Remembering:
    """Counts, in each environment, the actions since its episode began."""

    def __init__(self) -> None:
        self.age = np.zeros(2, int)
        self.ages: list[list[int]] = []

    def begin(self, mask: np.ndarray) -> None:
        self.age = np.where(mask, 0, self.age)

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        self.ages.append(self.age.tolist())
        self.age = self.age + 1
        return np.zeros((2, 2), np.float32) if len(self.ages) % 2 else np.ones((2, 2), np.float32)


def test_who_remembers_is_told_where_episodes_begin() -> None:
    task, act = task_named("point-reach"), Remembering()
    played = play(task, task.make(2), act, [0, 1], steps=task.max_steps + 3, continuing=True)
    over = (played.terminated | played.truncated).numpy()
    assert over.any()
    for now, after, ended in zip(act.ages, act.ages[1:], over, strict=False):
        assert after == [0 if end else age + 1 for age, end in zip(now, ended, strict=True)]


# --- the environment --------------------------------------------------------------------------------------------------


def test_the_goal_jumps_once_to_the_other_side() -> None:
    task = task_named("point-reach-jump")
    envs = task.make(20)
    played = play(task, envs, lambda seen: point_expert(envs, seen), list(range(20)))
    assert played.succeeded.all()
    goal, high = played.observation[..., 2], played.observation[..., 1] > JUMPS
    for e in range(20):
        first, last = goal[0, e], goal[played.alive[:, e], e][-1]
        assert first * last < 0
        assert 0.4 <= abs(float(last)) <= 0.9
        assert (goal[played.alive[:, e] & high[:, e], e] == last).all()
    quiet = task_named("point-reach")
    still = play(quiet, quiet.make(3), lambda seen: np.zeros((3, 2)), [0, 1, 2], steps=2).observation
    assert torch.equal(still[0, :, :], played.observation[0, :3])


def test_ways_and_switches() -> None:
    seen = np.array([[0, -0.8, 0, 0.8], [0.5, -0.1, 0, 0.8], [0, 0.5, 0, 0.8]], np.float32)
    assert side_taken(seen, np.array([[-0.2, 1], [1, 0], [1, 0]])).tolist() == [-1, 0, 0]
    task = task_named("point-reach-two-ways")
    below = torch.tensor([0.0, -0.8, 0, 0.8]).expand(4, 2, 4)
    action = torch.tensor([[1.0, -1], [-1, -1], [0, -1], [1, -1]])[..., None].expand(4, 2, 2)
    alive = torch.ones(4, 2, dtype=torch.bool)
    played = Transitions(below, action, None, alive.float(), below, alive, alive, alive, alive)
    assert switches(task, played) == 1.0  # two of the one, none of the other


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3])
def test_a_run_that_is_cut_goes_on_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: int
) -> None:
    saved = require_goes_on(RTIDPLearner, "rti-dp", tmp_path, monkeypatch, total=4, at=at, **TINY)
    assert any("average" in place for place in saved)


def test_the_average_forgets_how_it_began() -> None:
    """After the first batch it is the network; later its decay is 1 − (1 + n)^−power."""
    made = learner(ema_decay=0.5, ema_power=0.75)
    assert made.average is not None
    weight = made.policy.network.end.bias
    expected, decays = weight.detach().clone(), []
    for n in range(4):
        with torch.no_grad():
            weight.add_(1.0)
        made.average.after_batch()
        decay = min(0.5, 1 - (1 + n) ** -0.75)
        decays.append(decay)
        expected = decay * expected + (1 - decay) * weight.detach()
        torch.testing.assert_close(made.average.module.network.end.bias, expected)
    assert decays[0] == 0
    assert decays[-1] == 0.5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """It learns to reach goals, in a few seconds."""
    out = tmp_path_factory.mktemp("runs") / "run"
    knobs = {
        "environment": "point-reach", "demonstrations": 100, "eval_episodes": 40, "diffusion_steps": 20,
        "timesteps": (2, 1, 0), "width": 96, "depth": 2, "lr": 8e-3, "warmup": 20, "steps": 1200, "batch_size": 128,
        "ema_decay": 0.98,
    }  # fmt: skip
    return selfteach.train("rti-dp", out=out, device="cpu", progress=None, **knobs)


def test_warm_starts_reach_the_goal_in_few_calls_and_cold_ones_do_not(run: Any) -> None:
    found = run.summary
    assert found["headline"] == found["eval/success/warm-start"]
    assert found["eval/success/warm-start"] > 0.6
    assert found["eval/success/full"] > 0.5
    assert found["eval/success/cold"] < found["eval/success/warm-start"] - 0.1
    assert found["eval/switches/warm-start"] < found["eval/switches/closed-loop"]
    assert found["eval/calls/cold"] == 3
    assert found["eval/calls/closed-loop"] == 20
    assert 3 < found["eval/calls/warm-start"] < 6
    assert found["eval/contraction"] < 1


def test_its_page_shows_the_paths_of_each_sampler(run: Any) -> None:
    rows = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    keys = [one["key"] for one in rows if one["phase"] == "after"]
    assert keys == [f"paths of {name}" for name in ("warm-start", "full", "closed-loop", "cold", "noised")]
    assert "paths of warm-start" in run.report().read_text(encoding="utf-8")
    assert (run.folder / "model" / "policy.safetensors").is_file()


def test_another_sampler_is_the_headline(tmp_path: Path) -> None:
    given = {**TINY, "sampler": "cold", "compared": (), "timesteps": (1, 0)}
    found = selfteach.train("rti-dp", out=tmp_path / "run", **given, **QUIET).summary
    assert found["headline"] == found["eval/success/cold"]
    assert found["eval/calls/cold"] == 2
    assert "eval/success/full" not in found


# --- what cannot be meant -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--timesteps", "0", "1"], "timesteps must descend"),
        (["--timesteps", "2", "2", "0"], "timesteps must descend"),
        (["--timesteps", "100", "0"], "timesteps are 0 to 99"),
        (["--timesteps"], "timesteps is empty"),
        (["--horizon", "4"], "a chunk of horizon 4 has no 8 actions"),
        (["--sampler", "warm"], "warm"),
        (["--discrete", "2"], "discrete names channel 2"),
        (["--factor", "0"], "factor"),
        (["--environment", "gymnasium:Pendulum-v1"], "has no expert to clone"),
        (["--environment", "gymnasium:CartPole-v1"], "has actions of Discrete(2)"),
        (["--environment", f"{__file__}:undecided"], "an action of the expert"),
        (["--environment", f"{__file__}:square"], "actions of shape (2, 2)"),
        (["--environment", "point-reach-tree-ways"], "point-reach-two-ways"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "rti-dp", *words, "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert said in " ".join(told.split())
    assert "Traceback" not in told
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_action_that_no_longer_is_a_number_is_refused() -> None:
    made = learner()
    with torch.no_grad():
        made.shown().network.end.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="an action is not finite"):
        made.evaluate("after")


class Gripping(PointReach):
    """A third channel of the action is to be 1 above the disc and −1 below it."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.single_action_space = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Box(-1, 1, (num_envs, 3), np.float32)

    def step(self, actions: np.ndarray) -> Any:
        return super().step(actions[:, :2])


class Square(PointReach):
    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.single_action_space = spaces.Box(-1, 1, (2, 2), np.float32)


def gripping() -> EmbodiedTask:
    def act(envs: Any, seen: np.ndarray) -> np.ndarray:
        return np.concatenate([point_expert(envs, seen), np.sign(seen[:, 1:2])], 1)

    return EmbodiedTask("gripping", Gripping, 50, success=succeeded, expert=act)


def square() -> EmbodiedTask:
    return EmbodiedTask("square", Square, 50, success=succeeded, expert=point_expert)


def undecided() -> EmbodiedTask:
    """Its expert does not know."""
    return EmbodiedTask(
        "undecided",
        PointReach,
        50,
        success=succeeded,
        expert=lambda envs, seen: np.full((len(seen), 2), np.nan),
    )


def test_plans_are_of_the_steps_that_are_named() -> None:
    recipe = with_knobs(RTIDP(), {"diffusion_steps": 6, "timesteps": (3, 1, 0)})
    every = (5, 4, 3, 2, 1, 0)
    assert plan_of(recipe, "warm-start") == Plan(every, (3, 1, 0), "guess", 1)
    assert plan_of(recipe, "full") == Plan(every, every, "noise", 8)
