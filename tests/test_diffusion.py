"""The floor of diffusion: paths, transitions, worlds with exact scores, samplers, copies, and a run that is cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

from selfteach.errors import UserError
from selfteach.objective import flow
from selfteach.objective.energy import energy_distance
from selfteach.objective.transition import (
    clean_of_noise,
    cps,
    ddpm,
    diffusion,
    flow_sde,
    gaussian_kl,
    gaussian_log_prob,
    ode,
)
from selfteach.recipes.r65_self_e import SelfE
from selfteach.task.worlds2d import Mixture, Squares, checkerboard, opposite, ring, world_named
from selfteach.training.diffusion.copies import Average, Frozen
from selfteach.training.diffusion.data import source_named
from selfteach.training.diffusion.frames import FrameNetwork, require_frames
from selfteach.training.diffusion.learner import PICTURED, a_row_of
from selfteach.training.diffusion.network import VelocityMLP
from selfteach.training.diffusion.sampling import sample, time_grid
from selfteach.training.diffusion.self_e import SelfELearner
from selfteach.training.diffusion.unet import VelocityUNet
from selfteach.training.pictures import SHADE
from selfteach.training.trainer import Settings

N = 6


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, V = drawn(N, 3), drawn(N, 3, seed=1)
T = torch.linspace(0.2, 0.95, N, dtype=torch.float64)
S = T - 0.15


# --- paths -------------------------------------------------------------------------------------------------------


def test_velocity_clean_prediction_and_noise_say_the_same() -> None:
    x0, noise = drawn(N, 3, seed=2), drawn(N, 3, seed=3)
    x, v = flow.interpolated(x0, noise, T), flow.velocity(x0, noise)
    torch.testing.assert_close(flow.clean(x, v, T), x0)
    torch.testing.assert_close(flow.noise_of(x, v, T), noise)
    torch.testing.assert_close(flow.velocity_to(x, x0, T), v)
    torch.testing.assert_close(flow.score_of(x, x0, T), -noise / T[:, None])


def test_rows_may_have_any_shape() -> None:
    images = drawn(N, 1, 4, 4), drawn(N, 1, 4, 4, seed=1)
    for step in (ode, lambda *a: flow_sde(*a, 0.7), lambda *a: cps(*a, 0.7)):
        whole, rows = step(*images, T, S), step(images[0].flatten(1), images[1].flatten(1), T, S)
        torch.testing.assert_close(whole.mean.flatten(1), rows.mean)


def test_guidance_of_one_is_the_conditional_prediction() -> None:
    torch.testing.assert_close(flow.guided(X, V, 1.0), X)
    torch.testing.assert_close(flow.guided(X, V, 6.0), X + 5 * (X - V))


# --- transitions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [flow_sde, cps])
def test_without_noise_every_sampler_is_eulers(step: object) -> None:
    at = step(X, V, T, S, 0.0)
    torch.testing.assert_close(at.mean, ode(X, V, T, S).mean)
    assert (at.std == 0).all()
    torch.testing.assert_close(step(X, V, T, S, 1e-6).mean, at.mean, rtol=1e-9, atol=1e-9)


def test_the_kl_of_flow_sde_is_its_closed_form() -> None:
    """|dt|/2 · (1/g + g (1 − t)/(2t))² |Δv|², and that of the ODE's mean dt²/2 |Δv|²."""
    eta, other = 0.7, drawn(N, 3, seed=4)
    ours, theirs = flow_sde(X, V, T, S, eta), flow_sde(X, other, T, S, eta)
    g, gap = diffusion(T, eta), (V - other).square().sum(1)
    expected = (T - S) / 2 * (1 / g + g * (1 - T) / (2 * T)) ** 2 * gap
    torch.testing.assert_close(gaussian_kl(ours.mean, theirs.mean, ours.std), expected)
    straight = (ode(X, V, T, S).mean - ode(X, other, T, S).mean).square().sum(1) / 2
    torch.testing.assert_close(straight, (T - S) ** 2 / 2 * gap)


def test_at_pure_noise_the_scale_is_that_of_the_second_time() -> None:
    t, s = torch.ones(N).double(), torch.full((N,), 0.9).double()
    step = flow_sde(X, V, t, s, 0.7, largest=0.9)
    torch.testing.assert_close(step.std, torch.full((N,), 0.7 * math.sqrt(0.9 / 0.1 * 0.1)).double())
    assert step.mean.isfinite().all()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_step_of_cps_ends_at_its_noise_level(eta: float) -> None:
    """With the true x₀ and ε the mean holds (1 − s) x₀, and noise left and noise drawn add up to s²."""
    x0, noise = drawn(N, 3, seed=2), drawn(N, 3, seed=3)
    to = cps(flow.interpolated(x0, noise, T), noise - x0, T, S, eta)
    left = (to.mean - (1 - S)[:, None] * x0) / noise
    torch.testing.assert_close(left.square() + to.std[:, None] ** 2, S[:, None].square().expand(N, 3))


@pytest.mark.parametrize("step", [ode, flow_sde])
def test_many_steps_keep_the_marginals(step: object) -> None:
    """Of Gaussian data the exact velocity is known: samples have the data's mean and variance, with noise or without.
    (Those of cps are narrower: its noise does not shrink with the step.)"""
    mean, std, n = 1.5, 0.4, 20_000
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    grid = torch.linspace(1, 0, 201, dtype=torch.float64)
    for t, s in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        variance = ((1 - t) * std) ** 2 + t * t
        x0 = mean + (1 - t) * std**2 / variance * (x - (1 - t) * mean)
        at, to = torch.full((n,), t).double(), torch.full((n,), s).double()
        velocity = flow.velocity_to(x, x0, at)
        # the noise scale of flow_sde at t = 1 is infinite, and taken at the next time
        given = (0.5, float(grid[1])) if step is flow_sde else ()
        noise = torch.randn(n, 1, dtype=torch.float64, generator=generator)
        x = step(x, velocity, at, to, *given).sample(noise)
    assert float(x.mean()) == pytest.approx(mean, abs=0.02)
    assert float(x.std()) == pytest.approx(std, abs=0.02)


def test_log_prob_is_torchs() -> None:
    std = torch.linspace(0.3, 2, N, dtype=torch.float64)
    theirs = torch.distributions.Normal(V, std[:, None])
    torch.testing.assert_close(gaussian_log_prob(X, V, std), theirs.log_prob(X).sum(1))
    ours = torch.distributions.Normal(X, std[:, None])
    torch.testing.assert_close(gaussian_kl(X, V, std), torch.distributions.kl_divergence(ours, theirs).sum(1))


def test_a_step_of_ddpm_is_diffusers() -> None:
    scheduler = DDPMScheduler(num_train_timesteps=50, clip_sample=False)
    scheduler.set_timesteps(10)
    x, noise = X.float(), V.float()
    for k in range(9):
        t, s = int(scheduler.timesteps[k]), int(scheduler.timesteps[k + 1])
        kept, after = (scheduler.alphas_cumprod[one].expand(N) for one in (t, s))
        to = ddpm(x, clean_of_noise(x, noise, kept), kept, after)
        generator = torch.Generator().manual_seed(k)
        theirs = scheduler.step(noise, t, x, generator=generator).prev_sample
        drawn_noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
        torch.testing.assert_close(to.sample(drawn_noise), theirs, rtol=1e-4, atol=1e-5)


# --- samplers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (4, 1.0), (4, 3.0), (10, 5.0)])
def test_a_sample_is_that_of_diffusers_scheduler(steps: int, shift: float) -> None:
    network = VelocityMLP(2, 3, 16, 2, seed=1)
    noise, labels = drawn(N, 2).float(), torch.arange(N) % 4
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    torch.testing.assert_close(scheduler.sigmas, time_grid(steps, shift))
    x = noise
    for t in scheduler.timesteps:
        with torch.no_grad():
            velocity = network(x, (t / 1000).expand(N), labels)
        x = scheduler.step(velocity, t, x).prev_sample
    torch.testing.assert_close(sample(network, noise, labels, time_grid(steps, shift)), x)


def test_a_network_of_two_times_is_the_flow_where_they_are_equal() -> None:
    network = VelocityMLP(2, 3, 16, 2, two_time=True)
    x, labels, t = X[:, :2].float(), torch.arange(N) % 4, T.float()
    torch.testing.assert_close(network(x, t, labels), network(x, t, labels, t))
    assert (network(x, t, labels, S.float()) != network(x, t, labels)).any()


KINDS = {"mlp": partial(VelocityMLP, 2, 3, 16, 2), "unet": partial(VelocityUNet, (1, 4, 4), 3, 8, 1)}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_initial_weights_are_the_seeds_whatever_was_drawn_before(make: Callable[..., nn.Module]) -> None:
    one = make(seed=5)
    before = torch.get_rng_state()
    other = make(seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    last = [list(kind.parameters())[-1] for kind in (one, make(seed=6))]
    assert not torch.equal(*last)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10), (1, 7, 7), (2, 4, 2)])
def test_a_unet_takes_images_of_any_sides_laid_flat(shape: tuple[int, ...]) -> None:
    network = VelocityUNet(shape, 3, 8, 1, two_time=True, seed=1)
    x, t, labels = torch.randn(5, network.dims), torch.rand(5), torch.arange(5) % 4
    made = network(x, t, labels)
    assert made.shape == x.shape
    torch.testing.assert_close(network(x, t, labels, t), made)
    each = torch.cat([network(x[k : k + 1], t[k : k + 1], labels[k : k + 1]) for k in range(5)])
    torch.testing.assert_close(each, made, atol=1e-5, rtol=1e-5)
    for other in (network(x, t / 2, labels), network(x, t, (labels + 1) % 4), network(x, t, labels, t / 2)):
        assert (other != made).any(1).all()
    assert network(x[:0], t[:0], labels[:0]).shape == (0, network.dims)
    made.sum().backward()
    assert all(
        one.grad is not None for name, one in network.named_parameters() if not name.startswith("jump")
    )


def test_a_unet_of_what_is_no_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"the data's rows are \[2\]: take mlp"):
        VelocityUNet((2,), 3, 8, 1)
    for last in ((8, 8, 3), (28, 28, 1)):
        with pytest.raises(UserError, match=r"channels last: give x\.transpose\(0, 3, 1, 2\)"):
            VelocityUNet(last, 3, 8, 1)


# --- worlds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [ring(), opposite(), checkerboard()], ids=["ring", "opposite", "board"])
@pytest.mark.parametrize("t", [0.3, 0.8])
def test_a_density_integrates_to_one_and_is_that_of_its_noised_samples(
    world: Mixture | Squares, t: float
) -> None:
    side = torch.linspace(-7, 7, 401)
    grid = torch.cartesian_prod(side, side)
    density = world.log_densities(grid, torch.full((len(grid),), t)).exp()
    cell = float(side[1] - side[0]) ** 2
    torch.testing.assert_close(density.sum(0) * cell, torch.ones(world.classes), rtol=1e-3, atol=1e-3)
    generator = torch.Generator().manual_seed(0)
    x = world.sample(torch.zeros(40_000, dtype=torch.long), generator)
    x = (1 - t) * x + t * torch.randn(x.shape, generator=generator)
    for moment in (lambda at: at[:, 0], lambda at: at.square().sum(1), lambda at: at.prod(1)):
        expected = float((moment(grid) * density[:, 0]).sum() * cell)
        assert float(moment(x).mean()) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 2, 3, 0]), None])
def test_scores_are_differences_of_log_densities(labels: torch.Tensor | None) -> None:
    given = opposite()
    world = Mixture(given.means.double(), given.weights.double(), given.std)
    x, t, step = drawn(5, 2), torch.linspace(0.1, 0.9, 5).double(), 1e-5
    for axis in range(2):
        at = step * torch.eye(2).double()[axis]
        slope = (world.log_density(x + at, t, labels) - world.log_density(x - at, t, labels)) / (2 * step)
        torch.testing.assert_close(world.score(x, t, labels)[:, axis], slope, rtol=1e-6, atol=1e-6)


def test_posterior_means_of_one_gaussian_are_its_regression() -> None:
    world = Mixture(torch.tensor([[[1.0, -2.0]]]).double(), torch.ones(1, 1).double(), 0.4)
    x, t = drawn(5, 2), torch.linspace(0.1, 0.9, 5).double()
    a = (1 - t)[:, None]
    gain = a * 0.16 / (a**2 * 0.16 + t[:, None] ** 2)
    torch.testing.assert_close(world.posterior_mean(x, t), world.means[0] + gain * (x - a * world.means[0]))


def test_a_board_has_its_density_without_noise() -> None:
    board = checkerboard()
    x = board.sample(torch.zeros(200, dtype=torch.long))
    assert board.log_density(x, torch.zeros(200)).exp().numpy() == pytest.approx(1 / 8)
    assert board.log_density(torch.tensor([[-0.5, 0.5], [9.0, 9.0]]), torch.zeros(2)).exp().sum() == 0


def test_an_unknown_world_names_the_nearest() -> None:
    with pytest.raises(UserError, match="opposite"):
        world_named("oposite")


# --- distances, data, copies -------------------------------------------------------------------------------------


def test_the_energy_distance_is_scipys_but_for_its_bias() -> None:
    x, y = drawn(40, 1), 0.5 + 2 * drawn(50, 1, seed=1)
    biased = [float(torch.cdist(a, a).mean()) / (len(a) - 1) for a in (x, y)]
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2 - sum(biased)
    assert float(energy_distance(x, y)) == pytest.approx(expected)


def test_the_energy_distance_has_no_bias_and_sees_a_shift() -> None:
    found = [
        float(energy_distance(drawn(50, 2, seed=2 * k), drawn(50, 2, seed=2 * k + 1))) for k in range(200)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))
    assert float(energy_distance(drawn(200, 2), drawn(200, 2, seed=1) + 1)) > 10 * np.std(found)


def test_rows_are_drawn_by_label_and_held_out(tmp_path: Path) -> None:
    y = np.repeat(np.arange(3), [20, 40, 60])
    np.savez(tmp_path / "d.npz", x=np.stack([y, np.arange(120.0)], 1), y=y)
    source = source_named(str(tmp_path / "d.npz"), 0)
    labels = torch.arange(300) % 3
    drawn_rows = source.draw_of(labels)
    assert torch.equal(drawn_rows[:, 0].long(), labels)
    x, own = source.draw(300)
    assert torch.equal(x[:, 0].long(), own)
    held = torch.cat([source.held_out(k, 99, torch.Generator()) for k in range(3)])
    assert not set(held[:, 1].tolist()) & set([*x[:, 1].tolist(), *drawn_rows[:, 1].tolist()])


def test_images_are_recognized_by_the_nearest_that_was_trained_on() -> None:
    source = source_named("digits", 0)
    assert source.shape == (1, 8, 8)
    assert source.is_images
    held = [source.held_out(k, 20, torch.Generator()) for k in range(10)]
    shares = [source.recognized(x, k) for k, x in enumerate(held)]
    assert min(shares) >= 0.8
    assert np.mean(shares) > 0.95
    assert source.recognized(held[3], 4) == pytest.approx(0, abs=0.1)
    assert source_named("ring", 0).recognized(torch.zeros(3, 2), 0) is None


def test_rows_of_points_are_recognized_by_nobody(tmp_path: Path) -> None:
    np.savez(tmp_path / "points.npz", x=np.random.default_rng(0).normal(size=(60, 2)), y=np.arange(60) % 2)
    source = source_named(str(tmp_path / "points.npz"), 0)
    assert source.recognized(torch.zeros(3, 2), 0) is None


@pytest.mark.parametrize("held", [2, PICTURED, PICTURED + 3])
def test_a_row_of_a_picture_is_one_labels_however_few_are_held_out(held: int) -> None:
    row = a_row_of(torch.ones(held, 4))
    assert row.shape == (PICTURED, 4)
    assert row.min(1).values.tolist() == [1.0] * min(held, PICTURED) + [SHADE] * (
        PICTURED - min(held, PICTURED)
    )


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_pictures_show_images_in_whatever_numbers_they_are(tmp_path: Path, low: int, high: int) -> None:
    x = np.random.default_rng(0).random((60, 1, 4, 4))
    x[:, :, 0, 0], x[:, :, 3, 3] = 0, 1
    np.savez(tmp_path / "images.npz", x=low + (high - low) * x, y=np.arange(60) % 2)
    recipe = SelfE(data=str(tmp_path / "images.npz"), width=8, depth=1, step_counts=(), eval_samples=20)
    held = SelfELearner(recipe, Settings()).pictures()[0].values["pixels"]
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(60) % 2)
    plain = SelfELearner(recipe, Settings()).pictures()[0].values["pixels"]
    torch.testing.assert_close(held, plain, atol=1e-6, rtol=0)


def test_sequences_have_their_frames_first(tmp_path: Path) -> None:
    for name, shape in {"right": (6, 2), "turned": (2, 6), "flat": (12,)}.items():
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((30, *shape)), y=np.zeros(30, dtype=int))
        source = source_named(str(tmp_path / f"{name}.npz"), 0)
        if name == "turned":
            with pytest.raises(UserError, match=r"a row is \[2, 6\], whose first axis is no 6 frames"):
                require_frames(name, source, 6)
        else:
            require_frames(name, source, 6)
        with pytest.raises(UserError, match="are no 5 frames"):
            require_frames(name, source, 5)


def test_conditions_are_told_to_a_network_that_was_made_with_some() -> None:
    x, t, place = torch.zeros(3, 2), torch.rand(3), torch.arange(3)
    plain, told = FrameNetwork(2, 3, 8, 1, 0), FrameNetwork(2, 3, 8, 1, 0, conditions=(2, 2))
    for network, labels in ((plain, place), (told, None)):
        with pytest.raises(ValueError, match="made with conditions"):
            network(x, t, place, x, labels)


def test_data_without_labels_or_with_few_of_one_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "numbers.npz", x=np.zeros((9, 2)), y=np.zeros((9, 1)))
    with pytest.raises(UserError, match="give labels, y of one axis and an integer type"):
        source_named(str(tmp_path / "numbers.npz"), 0)
    np.savez(tmp_path / "few.npz", x=np.zeros((30, 2)), y=np.array([0] * 29 + [1]))
    with pytest.raises(UserError, match="give more rows"):
        source_named(str(tmp_path / "few.npz"), 0)


def test_an_average_follows_and_a_frozen_copy_stays() -> None:
    source = torch.nn.Linear(2, 2)
    frozen, average = Frozen(source), Average(source, 0.75)
    first = source.weight.detach().clone()
    for value in (1.0, 2.0):
        torch.nn.init.constant_(source.weight, value)
        average.after_batch()
        frozen.after_batch()
    torch.testing.assert_close(frozen.module.weight, first)
    torch.testing.assert_close(average.module.weight, 0.75**2 * first + 0.75 * 0.25 + 0.25 * 2)
    assert not average.module.weight.requires_grad
    again = Average(torch.nn.Linear(2, 2), 0.75)
    again.load_state(average.state())
    torch.testing.assert_close(again.module.weight, average.module.weight)
