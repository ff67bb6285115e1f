"""Card 21: DMD's gradient between Gaussians, guidance in both conventions, rollouts that are left at a random step,
regression to trajectories, conditions, and runs that go on bit for bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

import selfteach
from cut import QUIET, require_goes_on
from outputs import require_slopes
from selfteach.objective.flow import clean, interpolated
from selfteach.recipes import with_knobs
from selfteach.recipes.r21_livetalk import LiveTalk
from selfteach.task.walk2d import speeds
from selfteach.testing import evaluate_outputs
from selfteach.training.diffusion.copies import LateAverage
from selfteach.training.diffusion.frames import FrameNetwork, in_turn, noise_for, times_of
from selfteach.training.diffusion.livetalk import DISTILL, FAKE, ODE, STUDENT, LiveTalkLearner
from selfteach.training.diffusion.network import JointEmbedding
from selfteach.training.diffusion.sampling import time_grid
from selfteach.training.trainer import Settings

N, D = 5, 4
Arrays = dict[str, np.ndarray]


def given(seed: int = 0, **changed: Any) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(N, D)) for name in LiveTalk.outputs} | changed


def evaluated(network: str, arrays: Arrays, **knobs: Any) -> tuple[float, dict[str, np.ndarray]]:
    out = evaluate_outputs("livetalk", arrays, overrides=knobs)
    return out["losses"][network], out["grads"][network]


# --- losses -----------------------------------------------------------------------------------------------------


def test_the_students_gradient_is_the_normalized_gap_by_the_number_of_entries() -> None:
    arrays = given()
    real = arrays["f_c"] + 5 * (arrays["f_c"] - arrays["f_u"])
    distance = np.abs(arrays["x"] - real).mean(1, keepdims=True)
    gap = (arrays["f_fake"] - real) / distance
    loss, grads = evaluated("student", arrays)
    np.testing.assert_allclose(grads["x"], gap / (N * D), rtol=1e-10)
    assert loss == pytest.approx((gap**2).mean() / 2, rel=1e-12)
    assert set(name for name, slope in grads.items() if slope.any()) == {"x"}


def test_gaussians_of_one_variance_differ_by_their_means() -> None:
    """E[x₀ | x_t] of N(m, v) at x_t = a x₀ + σ ε is m + a v (x_t − a m)/(a² v + σ²): the gap is
    (m_f − m_r) σ²/(a² v + σ²), wherever x_t lies."""
    rng = np.random.default_rng(1)
    v, t = 0.7, 0.3
    a, variance = 1 - t, (1 - t) ** 2 * v + t**2
    x, x_t = rng.normal(size=(2, N, D))
    m_f, m_r = rng.normal(size=(2, 1, D))
    seen = [m + a * v * (x_t - a * m) / variance for m in (m_f, m_r)]
    _, grads = evaluated("student", given(x=x, f_fake=seen[0], f_c=seen[1]), guidance=(1.0,))
    gap = (m_f - m_r) * t**2 / variance
    distance = np.abs(x - seen[1]).mean(1, keepdims=True)
    np.testing.assert_allclose(grads["x"] * N * D * distance, gap.repeat(N, 0), rtol=1e-9)


def test_equal_predictions_move_nothing_also_where_the_sample_is_equal_to_them() -> None:
    arrays = given()
    arrays["f_fake"] = arrays["f_u"] = arrays["f_c"]
    arrays["x"] = np.where(np.arange(N)[:, None] == 0, arrays["f_c"], arrays["x"])
    loss, grads = evaluated("student", arrays)
    assert loss == 0
    assert not any(slope.any() for slope in grads.values())


def test_guidance_is_the_same_in_both_conventions() -> None:
    arrays = given()
    f_c, f_u = (torch.from_numpy(arrays[name]) for name in ("f_c", "f_u"))
    found = with_knobs(LiveTalk(), {"guidance": (6.0,)}).guided({"f_c": f_c, "f_u": f_u})
    torch.testing.assert_close(found, f_c + 5 * (f_c - f_u), rtol=1e-12, atol=1e-12)


def test_guidance_of_the_audio_apart() -> None:
    arrays = {name: torch.from_numpy(one) for name, one in given().items()}
    f_c, f_u, f_text = (arrays[name] for name in ("f_c", "f_u", "f_text"))
    apart = with_knobs(LiveTalk(), {"guidance": (3.0, 2.0)}).guided(arrays)
    torch.testing.assert_close(apart, f_u + 3 * (f_text - f_u) + 2 * (f_c - f_text))
    alike = with_knobs(LiveTalk(), {"guidance": (3.0, 3.0)}).guided(arrays)
    torch.testing.assert_close(alike, with_knobs(LiveTalk(), {"guidance": (3.0,)}).guided(arrays))


def test_regression_and_flow_matching_are_mean_squares() -> None:
    arrays = given()
    wrong = ((arrays["G"] - arrays["x0"]) ** 2).mean()
    assert evaluated("ode", arrays)[0] == pytest.approx(wrong, rel=1e-12)
    wrong = ((arrays["v_fake"] - arrays["eps"] + arrays["x"]) ** 2).mean()
    assert evaluated("fake", arrays)[0] == pytest.approx(wrong, rel=1e-12)


@pytest.mark.parametrize(("network", "name"), [("ode", "G"), ("fake", "v_fake")])
def test_gradients_are_finite_differences(network: str, name: str) -> None:
    require_slopes("livetalk", given(), network, (name,))


# --- blocks -----------------------------------------------------------------------------------------------------


def network_of(conditions: tuple[int, ...] = (3, 3), blocks: int = 3) -> FrameNetwork:
    return FrameNetwork(2, blocks, 16, 1, seed=0, conditions=conditions)


def test_the_papers_times() -> None:
    """1000, 936, 832 and 624 of 1000 are these, cut to the teacher's whole numbers."""
    torch.testing.assert_close(times_of(4, 4, 5.0), torch.tensor([1, 0.9375, 5 / 6, 0.625, 0]))
    assert times_of(2, 4, 5.0).tolist() == times_of(4, 4, 5.0)[[0, 2, 4]].tolist()


def test_a_rollout_is_its_steps_one_by_one_whatever_the_exit() -> None:
    """Clean prediction, new noise, next time; the last prediction is the block, and the next one sees it."""
    network, labels = network_of(), torch.tensor([0, 4, 8, 2])
    times = time_grid(4, 5.0)
    for steps in (1, 2, 3, 4):
        noise = noise_for([steps] * 3, 4, 2, torch.Generator().manual_seed(steps))
        grid = torch.cat([times[:steps], times[-1:]])
        found = in_turn(partial(network, labels=labels), noise, [grid] * 3)
        before = torch.zeros(4, 2)
        for place, own in enumerate(noise):
            x = own[0]
            for k in range(steps):
                v = network(x, times[k].expand(4), torch.full((4,), place), before, labels)
                x0 = x - times[k] * v
                x = (1 - times[k + 1]) * x0 + times[k + 1] * own[k + 1] if k + 1 < steps else x0
            torch.testing.assert_close(found[:, place], x)
            before = x


def test_gradients_reach_a_blocks_last_step_and_no_block_before() -> None:
    network, labels = network_of(), torch.zeros(4, dtype=torch.long)
    noise = noise_for([3] * 3, 4, 2, torch.Generator().manual_seed(0))
    for one in noise:
        one.requires_grad_()
    grid = torch.cat([time_grid(4)[:3], torch.zeros(1)])
    blocks = in_turn(partial(network, labels=labels), noise, [grid] * 3)
    slopes = torch.autograd.grad(blocks[:, 1].sum(), noise, retain_graph=True)
    reached = [[bool(step.any()) for step in one] for one in slopes]
    assert reached == [[False] * 3, [False, False, True], [False] * 3]
    (slope,) = torch.autograd.grad(blocks[:, 1].sum(), network.body.end.weight)
    assert slope.any()


def test_a_number_stands_for_several_labels() -> None:
    joint = JointEmbedding((2, 3, 4), 5)
    a, b, c = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1]), torch.tensor([3, 1, 2])
    expected = joint.parts[0](a) + joint.parts[1](b) + joint.parts[2](c)
    torch.testing.assert_close(joint((a * 3 + b) * 4 + c), expected)


def test_a_block_is_told_its_place_its_text_and_its_audio() -> None:
    network, before = network_of((3, 4)), torch.zeros(1, 2)
    x, t = torch.randn(1, 2), torch.rand(1)
    hidden = network.body.time[-1].register_forward_hook(lambda *_: torch.zeros(1, 16))
    features = network.body.begin(torch.cat([x, before], 1))
    for place, text, audio in ((0, 2, 3), (2, 0, 1), (1, 1, 0)):
        told = sum(
            table.weight[one]
            for table, one in zip(network.body.label.parts, (place, text, audio), strict=True)
        )
        layer = network.body.layers[0]
        made = features + silu(layer(silu(features + told)))
        found = network(x, t, torch.tensor([place]), before, torch.tensor([text * 4 + audio]))
        torch.testing.assert_close(found, network.body.end(made)[:, :2])
    hidden.remove()


def test_walks_differ_in_their_speed_alone() -> None:
    walks = speeds(6)
    assert len(walks) == 4
    for k, walk in enumerate(walks, start=1):
        x = walk.sample(3000, torch.Generator().manual_seed(0))
        angle = torch.atan2(x[..., 1], x[..., 0])
        turned = (angle[:, 1:] - angle[:, :-1] + np.pi) % (2 * np.pi) - np.pi
        torch.testing.assert_close(turned.mean(), torch.tensor(k * np.pi / 8).float(), rtol=0, atol=5e-3)
        one = walks[0].sample(3000, torch.Generator().manual_seed(0))
        assert torch.equal(x[:, 0], one[:, 0])


# --- the learner ------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "width": 16, "depth": 1, "frames": 4, "block_frames": 2, "pretrain_steps": 2, "pretrain_batch_size": 16,
    "ode_pairs": 12, "ode_steps": 3, "ode_lr": 1e-2, "steps": 5, "batch_size": 8,
    "student_every": 2, "ema_from": 2, "eval_samples": 20, "lr": 1e-2, "fake_lr": 1e-2,
}  # fmt: skip


def learner(stage: str = DISTILL, **knobs: Any) -> LiveTalkLearner:
    made = LiveTalkLearner(with_knobs(LiveTalk(), {**SMALL, **knobs}), Settings(device="cpu"))
    made.enter([one.name for one in made.stages].index(stage))
    torch.manual_seed(0)
    return made


@pytest.mark.parametrize("knobs", [{"guidance": (3.0,)}, {"guidance": (5.0,), "ode_guidance": (3.0,)}])
def test_trajectories_are_eulers_and_are_kept_at_the_students_times(knobs: dict[str, Any]) -> None:
    made = learner(**knobs)
    conditions = torch.tensor([0, 6, 12])
    noise = torch.randn(3, 8)
    states = made.trajectories(noise, conditions)
    x, grid, found = noise, time_grid(48, 5.0), [noise]
    null = torch.full_like(conditions, made.network.null)
    with torch.no_grad():
        for k in range(48):
            t = grid[k].expand(3)
            told, without = made.network(x, t, conditions), made.network(x, t, null)
            x = x + (grid[k + 1] - grid[k]) * (told + 2 * (told - without))
            found += [x] * (k % 12 == 11)
    torch.testing.assert_close(states, torch.stack(found), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grid[::12], times_of(4, 4, 5.0))


def test_regression_stands_behind_the_clean_blocks_of_its_own_trajectory() -> None:
    """Each block alone, by the network itself."""
    made = learner(ODE)
    batch = made.collect(0)
    found, pairs = made.predicted(batch), made.pairs()
    times = made.grid(4)
    for row in range(len(batch.rows)):
        own = pairs.states[:, batch.rows[row]].reshape(5, 2, 4)
        for block in range(2):
            k = int(batch.places[row, block])
            before = own[-1, block - 1] if block else torch.zeros(4)
            t, condition = times[k : k + 1], pairs.conditions[batch.rows[row]][None]
            x = own[k, block][None]
            v = made.student(x, t, torch.tensor([block]), before[None], condition)
            torch.testing.assert_close(found[row, 4 * block : 4 * block + 4], clean(x, v, t)[0])
    assert torch.equal(made.regressed(batch)["x0"], pairs.states[-1][batch.rows])
    assert {int(one) for _ in range(9) for one in made.collect(0).places.flatten()} == {0, 1, 2, 3}


def test_all_blocks_are_left_at_one_step() -> None:
    made, last, taught = (learner(rollouts=how) for how in ("on-policy", "on-policy-last", "teacher-forced"))
    drawn = [made.draws() for _ in range(60)]
    assert all(len({len(one) for one in batch.start}) == 1 for batch in drawn)
    assert {len(batch.start[0]) for batch in drawn} == {1, 2, 3, 4}
    assert {len(last.draws().start[0]) for _ in range(9)} == {4}
    places = [batch.states.places for _ in range(60) if (batch := taught.draws()).states is not None]
    assert all(len(one.unique()) == 1 for one in places)
    assert {int(one[0, 0]) for one in places} == {0, 1, 2, 3}


def test_blocks_that_are_left_early_have_gone_the_first_of_all_times() -> None:
    """Not those of a sampler of so few steps, which skips."""
    made = learner()
    batch = next(one for one in iter(made.draws, None) if len(one.start[0]) == 2)
    network = partial(made.student, labels=batch.conditions)
    grid = torch.tensor([1.0, 0.9375, 0.0])
    torch.testing.assert_close(made.made(batch), in_turn(network, batch.start, [grid] * 2).flatten(1))


def test_noise_levels_are_shifted_and_clamped() -> None:
    made = learner(timestep_shift=3.0)
    t = made.times(20000)
    assert (float(t.min()), float(t.max())) == pytest.approx((0.02, 0.98))
    below = float((t <= 0.6).float().mean())  # 3 u/(1 + 2 u) = 0.6 at u = 1/3
    assert below == pytest.approx(1 / 3, abs=0.02)


def gradients(made: LiveTalkLearner, step: int) -> dict[str, dict[str, list[Tensor]]]:
    """Optimizer → module → what its update's backward leaves."""
    found = {}
    for update in made.updates(made.collect(step)):
        for module in made.modules().values():
            module.zero_grad()
        update.backward()
        (name,) = update.steps
        found[name] = {
            key: [p.grad for p in module.parameters() if p.grad is not None and p.grad.any()]
            for key, module in made.modules().items()
        }
    return found


@pytest.mark.parametrize("rollouts", ["on-policy", "on-policy-last", "teacher-forced"])
def test_the_student_moves_every_so_often_and_its_critic_always(rollouts: str) -> None:
    made = learner(rollouts=rollouts)
    with torch.no_grad():
        made.fake.end.bias += 0.5
    for step in range(4):
        found = gradients(made, step)
        assert list(found) == ([STUDENT, FAKE] if step % 2 else [FAKE])
        for name, each in found.items():
            assert {module for module, slopes in each.items() if slopes} == {name}
    assert set(gradients(learner(ODE), 0)) == {ODE}
    assert {module for module, slopes in gradients(learner(ODE), 0)[ODE].items() if slopes} == {STUDENT}


def test_a_student_whose_critic_is_the_teacher_is_left_alone() -> None:
    """As it is when the stage begins, without guidance: the critic is the teacher's copy."""
    assert not gradients(learner(guidance=(1.0,)), 1)[STUDENT][STUDENT]
    assert gradients(learner(guidance=(2.0,)), 1)[STUDENT][STUDENT]
    made = learner("pretrain", guidance=(1.0,))
    with torch.no_grad():
        made.network.end.bias += 0.5  # what pretraining would have done
    made.enter(2)
    assert not gradients(made, 1)[STUDENT][STUDENT]


def test_what_the_critic_learns_from_is_the_student_as_it_is_then() -> None:
    made = learner()
    batch = made.collect(0)[0]
    before = made.denoised(batch)["x"]
    with torch.no_grad():
        made.student.body.end.bias += 1.0
    after = made.denoised(batch)
    assert not torch.equal(before, after["x"])
    assert not after["x"].requires_grad
    x_t = interpolated(after["x"], batch.noise, batch.t)
    torch.testing.assert_close(after["v_fake"], made.fake(x_t, batch.t, batch.conditions))


def test_conditions_are_hidden_together_or_the_audio_alone() -> None:
    made = learner("pretrain", label_dropout=0.25)
    labels = made.matching(20000).labels
    text, audio = labels // 5, labels % 5
    none, silent = (text == 4) & (audio == 4), (text < 4) & (audio == 4)
    assert float(none.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(silent.float().mean()) == pytest.approx(0.25, abs=0.02)
    rest = ~none & ~silent
    assert torch.equal(text[rest], audio[rest])
    assert made.network.null == 24
    shown = torch.tensor([made.told(torch.tensor(2), torch.tensor(3))])
    assert made.without_audio(shown).tolist() == [2 * 5 + 4]


def test_noise_makes_the_audio_anothers() -> None:
    labels = torch.arange(4).repeat(5000)
    shown = learner(condition_noise=0.3).noisy(labels)
    assert torch.equal(shown // 5, labels)
    wrong = shown % 5 != labels
    assert float(wrong.float().mean()) == pytest.approx(0.3, abs=0.02)
    counts = (shown % 5)[wrong & (labels == 0)].bincount(minlength=4)
    assert counts[0] == 0
    assert (counts[1:] > 300).all()
    assert torch.equal(learner().noisy(labels) % 5, labels)


def test_an_average_begins_late_and_counts_the_students_own_moves() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    late = LateAverage(module, 0.5, 2, STUDENT)
    expected = None
    for batch, (value, moved) in enumerate([(1.0, True), (2.0, True), (4.0, False), (8.0, True)]):
        with torch.no_grad():
            module.weight.fill_(value)
        late.after_step([FAKE])
        if moved:
            late.after_step([STUDENT])
        late.after_batch()
        expected = value if batch < 2 else expected if not moved else (expected + value) / 2
        assert late.module.weight.item() == expected
    again = LateAverage(module, 0.5, 2, STUDENT)
    again.load_state(late.state())
    for one in (late, again):
        one.after_step([STUDENT])
        one.after_batch()
    assert again.module.weight.item() == late.module.weight.item() != module.weight.item()


def test_blocks_are_judged_each_by_itself() -> None:
    made = learner()
    found = made.evaluate("before")
    two = learner(frames=2)  # one block: first and last are the whole
    alone = two.evaluate("before")
    for steps in (1, 2, 4):
        assert alone[f"eval/first_block/{steps}"] == alone[f"eval/last_block/{steps}"]
        assert alone[f"eval/first_block/{steps}"] == alone[f"eval/energy/{steps}"]
        assert found[f"eval/first_block/{steps}"] != found[f"eval/last_block/{steps}"]
    assert found["eval/headline"] == found["eval/energy/4"]
    assert found["eval/headline"] == pytest.approx(np.mean([found[f"eval/label/{k}"] for k in range(4)]))


def test_one_block_left_at_its_last_step_is_ordinary_sampling() -> None:
    """What training makes is then what evaluation samples, of the same noise."""
    made = learner(frames=2)
    batch = next(one for one in iter(made.draws, None) if len(one.start[0]) == 4)
    sampled = made.rolled(made.student, batch.start, made.grid(4), batch.conditions)
    assert torch.equal(made.made(batch), sampled)


# --- runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "knobs"),
    [
        (1, {}), (3, {}), (8, {}), (4, {"rollouts": "teacher-forced", "guidance": (3.0, 2.0)}),
        (9, {"condition_noise": 0.5}),
    ],
)  # fmt: skip
def test_a_run_that_breaks_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, knobs: dict[str, Any]
) -> None:
    """Cut in each of the three stages."""
    given = {**SMALL, **knobs}
    saved = require_goes_on(
        LiveTalkLearner, "livetalk", tmp_path, monkeypatch, total=10, at=at, preset="paper", **given
    )
    for network in (STUDENT, FAKE):
        for kind in ("weights", "optimizers"):
            assert any(place.startswith(f"/{kind}/{network}") for place in saved), (kind, network)
    assert any(place.startswith("/weights/network") for place in saved)
    assert any(place.startswith("/roles/average/weights") for place in saved)


def test_what_has_labels_and_no_sequence_is_a_block(tmp_path: Path) -> None:
    given = {**SMALL, "data": "opposite", "frames": 1, "block_frames": 1, "ode_steps": 0}
    run = selfteach.train("livetalk", out=tmp_path / "run", preset="paper", **QUIET, **given)
    assert run.summary["eval/first_block/1"] == run.summary["eval/energy/1"]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"data": "opposite", "frames": 4}, "are no 4 frames"),
        ({"data": "walk-sped"}, "did you mean walk-speeds"),
        ({"data": "ring", "frames": 1, "block_frames": 1, "condition_noise": 0.5}, "has one label"),
        ({"step_counts": (1, 8)}, "a schedule of 4 steps, got 8"),
        ({"guidance": (1.0, 2.0, 3.0)}, "one number, or two"),
        ({"label_dropout": 0.0, "guidance": (1.0,), "ode_guidance": (2.0,)}, "above 0 with guidance"),
        ({"label_dropout": 0.0}, "above 0 with guidance"),
        ({"label_dropout": 0.6}, "between 0 and 0.5"),
        ({"frames": 5}, "a multiple of block_frames"),
        ({"pretrain_steps": 0}, "make the teacher"),
        ({"steps": 1}, "never moves"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("livetalk", out=tmp_path / "run", preset="paper", **QUIET, **{**SMALL, **knobs})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
