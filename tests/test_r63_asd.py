"""Card 63: losses of equal branches, of swapped ones and of a discriminator that tells nothing; DMD's gradient; frame
budgets; runs that go on bit for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import selfteach
from cut import QUIET, require_goes_on
from outputs import require_slopes
from selfteach.objective.flow import velocity_to
from selfteach.recipes import with_knobs
from selfteach.recipes.r63_asd import ASD
from selfteach.task.walk2d import Walk
from selfteach.testing import evaluate_outputs
from selfteach.training.diffusion.asd import ASDLearner
from selfteach.training.diffusion.frames import (
    FrameNetwork,
    before_each,
    budgets,
    noise_for,
    roll_out,
    times_of,
)
from selfteach.training.diffusion.sampling import time_grid
from selfteach.training.trainer import Settings

N, D = 5, 4
Arrays = dict[str, np.ndarray]
VECTORS = ("x", "x0_real", "x0_fake", "slope_n", "slope_more", "eps_fake", "eps")


def given(seed: int = 0, **changed: Any) -> Arrays:
    rng = np.random.default_rng(seed)
    vectors = {name: rng.normal(size=(N, D)) for name in VECTORS}
    scores = {name: rng.normal(size=N) for name in ("d_n", "d_more")}
    return {**vectors, **scores, "t": rng.uniform(0.2, 0.9, size=N), **changed}


def losses(arrays: Arrays, **overrides: Any) -> dict[str, float]:
    return evaluate_outputs("asd", arrays, overrides=overrides)["losses"]


def test_branches_of_equal_scores_cost_log_two_either_way() -> None:
    arrays = given()
    arrays["d_more"] = arrays["d_n"]
    found = losses(arrays, dmd_weight=0.0, penalty=0.0)
    assert found["student"] == pytest.approx(math.log(2), abs=1e-12)
    assert found["discriminator"] == pytest.approx(math.log(2), abs=1e-12)


def test_branches_that_change_places_turn_one_loss_into_the_other() -> None:
    arrays = given()
    swapped = {**arrays, "d_n": arrays["d_more"], "d_more": arrays["d_n"]}
    one, other = (losses(each, dmd_weight=0.0, penalty=0.0) for each in (arrays, swapped))
    assert one["discriminator"] == pytest.approx(other["student"], rel=1e-12)
    assert one["student"] == pytest.approx(other["discriminator"], rel=1e-12)


def test_the_student_wants_to_be_taken_for_more_steps_and_its_discriminator_not_to_be_fooled() -> None:
    """The sign that is easily turned: each raises the score of what it wants preferred."""
    grads = evaluate_outputs("asd", given(), overrides={"penalty": 0.0})["grads"]
    assert (grads["student"]["d_n"] < 0).all()
    assert "d_more" not in grads["student"]
    assert (grads["discriminator"]["d_more"] < 0).all()
    assert (grads["discriminator"]["d_n"] > 0).all()


def test_a_discriminator_without_slopes_is_not_punished() -> None:
    flat = given(slope_n=np.zeros((N, D)), slope_more=np.zeros((N, D)))
    assert losses(flat, penalty=9.0)["discriminator"] == losses(flat, penalty=0.0)["discriminator"]
    steep = given()
    added = losses(steep, penalty=2.0)["discriminator"] - losses(steep, penalty=0.0)["discriminator"]
    squares = [(steep[name] ** 2).sum(1).mean() for name in ("slope_n", "slope_more")]
    assert added == pytest.approx(sum(squares), rel=1e-12)


@pytest.mark.parametrize("scale", ["distance", "score"])
def test_equal_scores_of_teacher_and_student_move_nothing(scale: str) -> None:
    arrays = given()
    arrays["x0_fake"] = arrays["x0_real"]
    out = evaluate_outputs("asd", arrays, overrides={"dmd_scale": scale, "adversarial_weight": 0.0})
    assert not out["grads"]["student"]["x"].any()


def test_the_gradient_is_the_difference_of_scores() -> None:
    """s(x_t) = ((1 − t) x0 − x_t)/t² of each; divided by the mean distance of sample and teacher it is DMD's step."""
    arrays = given()
    t, x_t = arrays["t"][:, None], np.random.default_rng(3).normal(size=(N, D))
    real, fake = (((1 - t) * arrays[name] - x_t) / t**2 for name in ("x0_real", "x0_fake"))
    plain = evaluate_outputs("asd", arrays, overrides={"dmd_scale": "score"})["grads"]["student"]["x"]
    np.testing.assert_allclose(N * plain, -(real - fake), rtol=1e-10)
    scaled = evaluate_outputs("asd", arrays)["grads"]["student"]["x"]
    distance = np.abs(arrays["x"] - arrays["x0_real"]).mean(1, keepdims=True)
    np.testing.assert_allclose(N * scaled, -(real - fake) * t**2 / (1 - t) / distance, rtol=1e-10)


@pytest.mark.parametrize(
    ("network", "names", "knobs"),
    [
        ("student", ("d_n",), {"dmd_weight": 0.0, "adversarial_weight": 0.7}),
        ("discriminator", ("d_n", "d_more", "slope_n", "slope_more"), {"penalty": 0.3}),
        ("fake", ("eps_fake",), {}),
        ("fake", ("eps_fake",), {"fake_loss": "velocity"}),
    ],
)
def test_gradients_are_finite_differences(
    network: str, names: tuple[str, ...], knobs: dict[str, Any]
) -> None:
    require_slopes("asd", given(), network, names, **knobs)


def test_an_error_of_noise_is_one_of_velocity_times_what_is_left() -> None:
    """ε = x_t + (1 − t) v, of the same x_t on both sides."""
    arrays = given()
    v_fake, v = np.random.default_rng(4).normal(size=(2, N, D))
    for name, velocity in (("eps_fake", v_fake), ("eps", v)):
        arrays[name] = arrays["x"] + (1 - arrays["t"][:, None]) * velocity
    error = ((v_fake - v) ** 2).sum(1)
    assert losses(arrays, fake_loss="velocity")["fake"] == pytest.approx(error.mean(), rel=1e-10)
    assert losses(arrays)["fake"] == pytest.approx((error * (1 - arrays["t"]) ** 2).mean(), rel=1e-10)


# --- rolling out ------------------------------------------------------------------------------------------------


class Doubled(FrameNetwork):
    """Whatever the noise, the clean frame is twice the one before, plus one, plus its place."""

    def forward(self, x: Tensor, t: Tensor, place: Tensor, before: Tensor) -> Tensor:
        return velocity_to(x, 2 * before + 1 + place[:, None], t)


def test_a_frame_stands_behind_the_one_that_the_network_made() -> None:
    network = Doubled(2, 4, 8, 1, seed=0)
    for each in ([1, 1, 1, 1], [4, 2, 1, 3]):
        frames = roll_out(network, noise_for(each, 3, 2), 4)
        expected = torch.tensor([1.0, 4.0, 11.0, 26.0])[None, :, None].expand(3, 4, 2)
        torch.testing.assert_close(frames, expected, rtol=1e-5, atol=1e-5)


def test_equal_budgets_are_the_uniform_schedule() -> None:
    assert budgets(5, 4, 4) == budgets(5, 4) == [4] * 5
    assert budgets(4, 1, 4) == [4, 1, 1, 1]
    made = learner()
    seeded = (torch.Generator().manual_seed(5) for _ in range(2))
    one, other = (
        made.walked(7, g, each) for g, each in zip(seeded, (budgets(3, 4, 4), budgets(3, 4)), strict=True)
    )
    assert torch.equal(one, other)
    found = made.evaluate("before")
    assert found["eval/energy_first/4"] == found["eval/energy/4"]


def test_fewer_steps_skip_within_one_schedule() -> None:
    assert times_of(4, 4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert times_of(2, 4).tolist() == [1.0, 0.5, 0.0]
    assert times_of(1, 4).tolist() == [1.0, 0.0]
    whole = set(time_grid(4).tolist())
    for steps in (1, 2, 3, 4):
        own = times_of(steps, 4).tolist()
        assert len(own) == steps + 1
        assert set(own) <= whole
        assert own == sorted(own, reverse=True)


def test_gradients_reach_a_frames_last_step_alone() -> None:
    """That of a rollout is that of its last steps, each behind what the others had made, held."""
    network = FrameNetwork(2, 3, 16, 1, seed=0)
    noise = noise_for([3, 2, 1], 5, 2, torch.Generator().manual_seed(0))
    frames = roll_out(network, noise, 4)
    slopes = torch.autograd.grad((frames**3).sum(), list(network.parameters()), allow_unused=True)
    with torch.no_grad():
        made = roll_out(network, noise, 4)
    torch.testing.assert_close(frames.detach(), made, rtol=0, atol=0)
    parts, before = [], torch.zeros(5, 2)
    for place, own in enumerate(noise):
        grid, places = times_of(len(own), 4), torch.full((5,), place)
        with torch.no_grad():
            x = own[0]
            for k in range(len(own) - 1):
                x0 = x - grid[k] * network(x, grid[k].expand(5), places, before)
                x = (1 - grid[k + 1]) * x0 + grid[k + 1] * own[k + 1]
        t = grid[len(own) - 1].expand(5)
        last = x - t[:, None] * network(x, t, places, before)
        parts.append((last**3).sum())
        before = last.detach()
    expected = torch.autograd.grad(sum(parts), list(network.parameters()), allow_unused=True)
    for one, other in zip(slopes, expected, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_frames_stand_behind_the_datas_own_when_they_are_matched() -> None:
    frames = torch.arange(1.0, 7.0).reshape(1, 3, 2)
    assert before_each(frames).tolist() == [[[0, 0], [1, 2], [3, 4]]]


def test_a_walk_turns_and_stays_on_its_circle() -> None:
    walk = Walk(frames=9).sample(4000, torch.Generator().manual_seed(0))
    assert walk.shape == (4000, 9, 2)
    angle = torch.atan2(walk[..., 1], walk[..., 0])
    turned = (angle[:, 1:] - angle[:, :-1]) % (2 * math.pi)
    torch.testing.assert_close(turned.mean(), torch.tensor(math.pi / 4), rtol=0, atol=5e-3)
    variance = ((walk[:, -1] - walk[:, 0]).square().mean(0)).mean()  # a whole turn: eight steps of noise
    torch.testing.assert_close(variance, torch.tensor(8 * 0.1**2), rtol=0.05, atol=0)


# --- runs -------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "width": 16, "depth": 1, "pretrain_steps": 2, "pretrain_batch_size": 16, "steps": 5, "batch_size": 8, "frames": 3,
    "student_every": 2, "eval_samples": 20, "lr": 1e-2,
}  # fmt: skip


def learner(**knobs: Any) -> ASDLearner:
    made = ASDLearner(with_knobs(ASD(), {**SMALL, **knobs}), Settings(device="cpu"))
    torch.manual_seed(0)
    made.enter(1)
    return made


@pytest.mark.parametrize("at", [1, 5])
def test_a_run_that_breaks_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Cut while teacher and student are pretrained, and while student, scores and discriminator take turns."""
    saved = require_goes_on(ASDLearner, "asd", tmp_path, monkeypatch, total=7, at=at, **SMALL)
    for network in ("student", "fake", "discriminator"):
        for kind in ("weights", "optimizers"):
            assert any(place.startswith(f"/{kind}/{network}") for place in saved), (kind, network)
    assert any(place.startswith("/weights/network") for place in saved)


def gradients(made: ASDLearner, names: tuple[str, ...]) -> dict[str, list[Tensor]]:
    """Of each network by name, after the updates that step it."""
    found = {}
    for step in range(2):
        for update in made.updates(made.collect(step)):
            for module in made.modules().values():
                module.zero_grad()
            update.backward()
            (name,) = update.steps
            found[name] = [p.grad for p in made.modules()[name].parameters() if p.grad is not None]
    return {name: found[name] for name in names}


def test_a_constant_discriminator_moves_no_student_and_is_not_punished() -> None:
    made = learner(dmd_weight=0.0)
    assert any(one.any() for one in gradients(made, ("student",))["student"])
    with torch.no_grad():
        for parameter in made.head[-1].parameters():
            parameter.zero_()
    assert not any(one.any() for one in gradients(made, ("student",))["student"])
    with torch.no_grad():
        batch = made.collect(0)
    outputs = made.told_apart(batch)
    assert not outputs["slope_n"].any()
    assert not outputs["slope_more"].any()


def test_a_student_whose_scores_are_the_teachers_is_left_alone_by_dmd() -> None:
    """As it is when the stage begins: the network of its scores is the teacher's copy."""
    made = learner(adversarial_weight=0.0)
    assert not any(one.any() for one in gradients(made, ("student",))["student"])
    with torch.no_grad():
        made.fake.end.bias += 0.5
    assert any(one.any() for one in gradients(made, ("student",))["student"])


def test_slopes_are_those_of_the_score() -> None:
    """In float64, by central differences of D^n along each entry of a noised sample."""
    made = learner()
    batch = made.collect(0)
    for module in made.modules().values():
        module.double()
    wide = [one.double() if isinstance(one, Tensor) else one for one in batch]
    batch = type(batch)(*wide)
    slope, x_t = made.told_apart(batch)["slope_n"], made.noised(batch, 0, batch.few)
    for entry in range(x_t.shape[1]):
        move = torch.zeros_like(x_t)
        move[:, entry] = 1e-5
        ahead, behind = (made.score(x_t + sign * move, batch.t[0], batch.steps) for sign in (1, -1))
        torch.testing.assert_close((ahead - behind) / 2e-5, slope[:, entry], rtol=1e-5, atol=1e-8)


def test_each_number_of_steps_has_a_score_of_its_own() -> None:
    made, x, t = learner(), torch.randn(4, 6), torch.rand(4)
    scores = [made.score(x, t, steps) for steps in (1, 2, 3)]
    assert not torch.equal(scores[0], scores[1])
    with pytest.raises(IndexError):
        made.score(x, t, 4)
    drawn = {made.collect(0).steps for _ in range(60)}
    assert drawn == {1, 2, 3}


def test_one_frame_is_a_plane(tmp_path: Path) -> None:
    """Any data of one label: here the ring, without sequences."""
    given = {**SMALL, "data": "ring", "frames": 1, "steps": 2}
    run = selfteach.train("asd", out=tmp_path / "run", **QUIET, **given)
    assert run.summary["eval/energy_first/1"] == run.summary["eval/energy/4"]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"data": "opposite"}, "4 labels"),
        ({"data": "ring", "frames": 8}, "are no 8 frames"),
        ({"data": "nowhere"}, "nowhere"),
        ({"step_counts": (1, 8)}, "a schedule of 4 steps, got 8"),
        ({"schedule_steps": 1, "step_counts": (1,)}, "2 or more"),
        ({"student_every": 1}, "2 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("asd", out=tmp_path / "run", **QUIET, **knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
