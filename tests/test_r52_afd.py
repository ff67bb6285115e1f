"""Card 52: gradients at the old weights, the minimum, what a constant score does, and runs that go on bit for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selfteach
from cut import QUIET, require_goes_on
from outputs import require_slopes
from saved import tensors
from selfteach.recipes import with_knobs
from selfteach.recipes.r52_afd import AFD
from selfteach.testing import evaluate_outputs
from selfteach.training import checkpoint
from selfteach.training.diffusion.afd import AFDLearner, shuffled
from selfteach.training.trainer import Settings

N, D = 6, 2
Y = np.array([0, 1, 0, 1, 0, 1])
BEST, WORST, EVEN = (np.full(N, w) for w in (1.0, 0.0, 0.5))
Arrays = dict[str, np.ndarray]


def given(seed: int = 0, **changed: Any) -> Arrays:
    rng = np.random.default_rng(seed)
    vectors = {name: rng.normal(size=(N, D)) for name in ("v_theta", "v_old", "v_ref", "v")}
    scores = {name: rng.normal(size=N) for name in ("d_teacher", "d_student", "score")}
    return {**vectors, **scores, "y": Y, **changed}


def student(arrays: Arrays, **overrides: Any) -> tuple[float, np.ndarray]:
    """Its loss without the prior, and the gradient in its velocity, n times over: sample by sample."""
    out = evaluate_outputs("afd", arrays, overrides={"prior_weight": 0.0, **overrides})
    return out["losses"]["student"], N * out["grads"]["student"]["v_theta"]


def shares(score: np.ndarray, scaling: str, c: float) -> np.ndarray:
    """w by hand."""
    r = np.array([s - score[prompt == Y].mean() for s, prompt in zip(score, Y, strict=True)])
    if scaling == "standardized":
        return (0.5 + r / (2 * c * r.std())).clip(0, 1)
    r = r.clip(-c, c)
    return (r - r.min()) / (r.max() - r.min())


@pytest.mark.parametrize("scaling", ["min-max", "standardized"])
@pytest.mark.parametrize("c", [5.0, 0.3])
def test_at_the_old_weights_the_gradient_is_signed_flow_matching(scaling: str, c: float) -> None:
    """2β (2w − 1)(v_old − v): β times flow matching's own for w = 1, minus that for w = 0, else between."""
    arrays = given()
    arrays["v_theta"] = arrays["v_old"]
    w = shares(arrays["score"], scaling, c)
    _, slope = student(arrays, beta=0.3, score_scaling=scaling, adv_clip=c)
    expected = 2 * 0.3 * (2 * w - 1)[:, None] * (arrays["v_old"] - arrays["v"])
    np.testing.assert_allclose(slope, expected, rtol=1e-10, atol=1e-12)
    _, matching = student(arrays, student_loss="sft")
    for many, sign in ((BEST, 1), (WORST, -1), (EVEN, 0)):
        rows = np.isclose(w, many)
        np.testing.assert_allclose(slope[rows], sign * 0.3 * matching[rows], atol=1e-12)


def test_the_minimum_is_a_multiple_of_the_old_error_away_and_not_the_target() -> None:
    arrays, beta = given(), 0.4
    w = shares(arrays["score"], "standardized", 2.0)
    best = arrays["v_old"] + (2 * w - 1)[:, None] * (arrays["v"] - arrays["v_old"]) / beta
    knobs = {"beta": beta, "score_scaling": "standardized", "adv_clip": 2.0}
    least, slope = student({**arrays, "v_theta": best}, **knobs)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    rng = np.random.default_rng(1)
    for _ in range(5):
        assert student({**arrays, "v_theta": best + 0.1 * rng.normal(size=best.shape)}, **knobs)[0] > least
    assert np.abs(student({**arrays, "v_theta": arrays["v"]}, **knobs)[1]).max() > 0.1


def test_with_its_own_velocity_as_the_old_one_what_is_not_preferred_is_fled_without_end() -> None:
    """v_old = v_θ at every step: β (2w − 1) times flow matching's gradient wherever v_θ is, which for w < 1/2 leads
    away from v ever faster; the old copy's minimum holds it."""
    arrays = given()
    w = shares(arrays["score"], "min-max", 5.0)
    now, matching = student(arrays, old="current")[1], student(arrays, student_loss="sft")[1]
    np.testing.assert_allclose(now, 0.1 * (2 * w - 1)[:, None] * matching, rtol=1e-10, atol=1e-12)
    fled, held = (np.array(arrays["v_theta"]) for _ in range(2))
    for _ in range(400):
        fled = fled - student({**arrays, "v_theta": fled}, old="current")[1]
        held = held - student({**arrays, "v_theta": held})[1]
    away = w < 0.4
    assert away.any()
    assert np.abs(fled - arrays["v"])[away].min() > 1e3
    np.testing.assert_allclose(
        held, arrays["v_old"] + (2 * w - 1)[:, None] * (arrays["v"] - arrays["v_old"]) / 0.1, rtol=1e-2
    )


@pytest.mark.parametrize("scaling", ["min-max", "standardized"])
def test_a_discriminator_that_tells_nothing_moves_nothing(scaling: str) -> None:
    for score in (np.full(N, 1.7), np.where(Y == 0, -3.0, 8.0)):  # nothing but the prompt
        arrays = given(score=score)
        arrays["v_theta"] = arrays["v_old"]
        _, slope = student(arrays, score_scaling=scaling)
        np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_what_is_said_of_a_prompt_alone_changes_nothing() -> None:
    arrays, of_prompt = given(), np.where(Y == 0, 4.0, -1.0)
    moved = {
        **arrays,
        **{name: arrays[name] + of_prompt for name in ("d_teacher", "d_student", "score")},
    }
    one, other = (evaluate_outputs("afd", each)["losses"] for each in (arrays, moved))
    assert one == pytest.approx(other, rel=1e-12)


def test_scores_that_are_equal_cost_log_two() -> None:
    arrays = given()
    arrays["d_student"] = arrays["d_teacher"]
    assert evaluate_outputs("afd", arrays)["losses"]["discriminator"] == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize(
    ("network", "names", "knobs"),
    [
        ("student", ("v_theta",), {}),
        ("student", ("v_theta",), {"score_scaling": "standardized", "adv_clip": 0.5, "prior_weight": 0.3}),
        ("student", ("v_theta",), {"student_loss": "sft"}),
        ("student", ("score",), {"student_loss": "gan"}),
        ("discriminator", ("d_teacher", "d_student"), {}),
        ("discriminator", ("d_teacher", "d_student"), {"discriminator_loss": "logistic"}),
    ],
)
def test_gradients_are_finite_differences(
    network: str, names: tuple[str, ...], knobs: dict[str, Any]
) -> None:
    require_slopes("afd", given(), network, names, **knobs)


def test_the_prior_draws_what_is_preferred_to_where_it_began() -> None:
    arrays = given()
    w = shares(arrays["score"], "min-max", 5.0)
    with_prior, without = (student(arrays, prior_weight=weight)[1] for weight in (0.7, 0.0))
    expected = 2 * 0.7 * w[:, None] * (arrays["v_theta"] - arrays["v_ref"])
    np.testing.assert_allclose(with_prior - without, expected, rtol=1e-10, atol=1e-12)


# --- runs -------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "width": 16, "depth": 1, "pretrain_steps": 3, "pretrain_batch_size": 16, "discriminator_warmup": 2, "steps": 4,
    "batch_size": 24, "eval_samples": 20, "step_counts": (1,), "lr": 1e-2, "discriminator_lr": 1e-2,
}  # fmt: skip


@pytest.mark.parametrize("at", [4, 7])
def test_a_run_that_breaks_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Cut while the discriminator learns alone, and while both do: two optimizers, the old copy and the first one."""
    saved = require_goes_on(AFDLearner, "afd", tmp_path, monkeypatch, total=9, at=at, **SMALL)
    for part in (
        "weights/network",
        "weights/discriminator",
        "optimizers/student",
        "optimizers/discriminator",
    ):
        assert any(place.startswith(f"/{part}") for place in saved), part
    assert any(place.startswith("/roles/old") for place in saved)


def learner(**knobs: Any) -> AFDLearner:
    made = AFDLearner(with_knobs(AFD(), {**SMALL, **knobs}), Settings(device="cpu"))
    torch.manual_seed(0)
    made.enter([stage.name for stage in made.stages].index("distill"))
    made.roles({})
    return made


@pytest.mark.parametrize(
    ("knobs", "moved"),
    [
        ({}, {"network", "discriminator"}),
        ({"freeze_discriminator": True}, {"network"}),
        ({"student_loss": "sft"}, {"network"}),
        ({"student_loss": "gan"}, {"network", "discriminator"}),
        ({"old": "current"}, {"network", "discriminator"}),
        ({"teacher_samples": 0, "shuffle_scores": True}, {"network", "discriminator"}),
    ],
)
def test_what_a_step_moves(tmp_path: Path, knobs: dict[str, Any], moved: set[str]) -> None:
    """Weights of the last stage, of every compared form; copies of the student stay or follow."""
    seen: list[dict[str, torch.Tensor]] = []
    for steps in (1, 3):
        given = {**SMALL, **knobs, "steps": steps, **QUIET, "samples_every": 0, "out": tmp_path / f"{steps}"}
        selfteach.train("afd", **given)
        last = checkpoint.latest(tmp_path / f"{steps}")
        assert last is not None
        seen.append(tensors(checkpoint.load(last)))
    changed = {
        place.split("/")[2]
        for place, value in seen[0].items()
        if place.startswith("/weights") and not torch.equal(value, seen[1][place])
    }
    assert changed == moved
    reference = [place for place in seen[0] if place.startswith("/roles/reference")]
    assert reference
    assert all(torch.equal(seen[0][place], seen[1][place]) for place in reference)


def test_the_teacher_is_asked_once() -> None:
    """Its samples are the same in every run of a seed, whatever was drawn before, and all that a student ever sees."""
    torch.manual_seed(3)
    one, other = learner(teacher_samples=12), learner(teacher_samples=12)
    assert torch.equal(one.bought[0], other.bought[0])
    known = {tuple(point) for point in one.bought[0].tolist()}
    seen = {tuple(point) for step in range(20) for point in one.collect(step).taught.tolist()}
    assert seen == known


def test_samples_are_the_old_copys_and_pairs_are_of_one_prompt() -> None:
    made = learner(teacher_samples=0)
    with torch.no_grad():
        made.network.end.bias += 50.0
    batch = made.collect(0)
    assert batch.own.abs().max() < 20
    assert (learner(old="current").sampler()) is not made.old.module
    for prompt in range(
        4
    ):  # what the teacher shows for a prompt lies on the prompt's own line through the origin
        angle = torch.atan2(*batch.taught[batch.prompts == prompt].T.flip(0)) % math.pi
        away = (angle - math.pi / 4 * prompt + math.pi / 2) % math.pi - math.pi / 2
        assert away.abs().max() < 0.5


def test_scores_are_shuffled_within_their_prompt_alone() -> None:
    prompts = torch.randint(4, (200,), generator=torch.Generator().manual_seed(0))
    order = shuffled(prompts)
    assert order.sort().values.equal(torch.arange(200))
    assert prompts[order].equal(prompts)
    assert (order == torch.arange(200)).float().mean() < 0.2


def test_images_of_another_order_of_axes_are_other_data(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((30, 3, 4, 4)), np.arange(30) % 2
    np.savez(tmp_path / "first.npz", x=x, y=y)
    np.savez(tmp_path / "last.npz", x=x.transpose(0, 2, 3, 1), y=y)
    files = {"base_data": str(tmp_path / "first.npz"), "data": str(tmp_path / "last.npz")}
    with pytest.raises(
        selfteach.UserError, match=r"rows of shape \[3, 4, 4\] and .* \[4, 4, 3\]: give data of one"
    ):
        selfteach.train("afd", out=tmp_path / "run", **QUIET, **files)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"base_data": "ring"}, "1 classes and the teacher's data opposite 4"),
        ({"data": "nowhere"}, "nowhere"),
        ({"data": "missing.npz"}, "is no file"),
        ({"student_loss": "dmd"}, "must be 'nft', 'gan' or 'sft'"),
        ({"beta": 0.0}, "beta must be above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("afd", out=tmp_path / "run", **QUIET, **knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
