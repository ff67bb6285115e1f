"""Card 48: the divergence of a denoising step in closed form, whose states and means are whose, and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selfteach
from cut import require_goes_on
from diffusing import QUIET, SMALL
from selfteach.errors import UserError
from selfteach.objective.transition import flow_sde
from selfteach.recipes.r48_diffusionopd import DiffusionOPD
from selfteach.testing import evaluate_outputs
from selfteach.training.diffusion.opd import DiffusionOPDLearner
from selfteach.training.trainer import Settings

TINY = {
    **SMALL,
    "specialist_steps": 3,
    "steps": 4,
    "batch_size": 4,
    "guidance": 1.0,
    "teacher_guidance": (1.0,),
}
SUM = {"dimensions": "sum"}
SCORE = {"sampler": "sde", "estimator": "score-function", **SUM}


def given(**arrays: Any) -> dict[str, Any]:
    """Outputs of four states in three dimensions; ``arrays`` replace them."""
    rng = np.random.default_rng(0)
    mu, mu_T, x = rng.normal(size=(3, 4, 3))
    return {"mu": mu, "mu_T": mu_T, "x_next": x, "s": np.full(4, 0.5), "g": np.full(4, 2.0), **arrays}


def losses(arrays: dict[str, Any], **knobs: Any) -> float:
    return evaluate_outputs("diffusionopd", arrays, overrides=knobs)["losses"]["network"]


def learner(**knobs: Any) -> DiffusionOPDLearner:
    """At its last stage, with teachers that differ from the student and from one another."""
    made = DiffusionOPDLearner(DiffusionOPD(**{**flat(TINY), **knobs}), Settings(device="cpu"))
    made.enter(2)
    for k, one in enumerate(made.teachers):
        one.load_state_dict(VARIED(made, k))
    return made


def flat(knobs: dict[str, Any]) -> dict[str, Any]:
    """Knobs as a recipe's fields: those of the optimizer in its own settings."""
    own = {name: knobs[name] for name in ("steps", "batch_size")}
    recipe = selfteach.recipes.with_knobs(DiffusionOPD(guidance=1.0, teacher_guidance=(1.0,)), own)
    return {**{k: v for k, v in knobs.items() if k not in own}, "optimization": recipe.optimization}


def VARIED(made: DiffusionOPDLearner, k: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(k)
    weights = made.network.state_dict()
    return {name: w + 0.3 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}


# --- the loss ----------------------------------------------------------------------------------------------------


def test_with_unit_variance_a_gap_d_costs_half_its_square() -> None:
    arrays = given(mu=np.full((4, 1), 0.3), mu_T=np.full((4, 1), -0.6), x_next=np.zeros((4, 1)), s=np.ones(4))
    assert losses(arrays) == pytest.approx(0.9**2 / 2)
    assert losses({**arrays, "s": np.full(4, 0.5)}) == pytest.approx(0.9**2 / 2 / 0.25)


def test_dimensions_are_averaged_or_summed() -> None:
    assert losses(given(), **SUM) == pytest.approx(3 * losses(given()))


def test_without_noise_the_variance_is_dropped() -> None:
    arrays = given(s=np.zeros(4), g=np.zeros(4))
    assert losses(arrays, **SUM) == pytest.approx(((arrays["mu"] - arrays["mu_T"]) ** 2).sum(1).mean() / 2)
    assert losses(arrays) == losses(given(), divide_by="none")


def test_dividing_by_g2_weighs_a_step_by_its_length() -> None:
    """s² = g² |dt|: the released code's loss is |dt| times the divergence, whatever the times."""
    x, v, w = (torch.from_numpy(one) for one in np.random.default_rng(1).normal(size=(3, 4, 3)))
    t = torch.linspace(0.3, 0.9, 4).double()
    for length in (0.05, 0.2):
        ours, theirs = (flow_sde(x, one, t, t - length, 0.7) for one in (v, w))
        g = ours.std / np.sqrt(length)
        arrays = given(mu=ours.mean.numpy(), mu_T=theirs.mean.numpy(), s=ours.std.numpy(), g=g.numpy())
        released = losses(arrays, sampler="sde", divide_by="g2")
        assert released == pytest.approx(length * losses(arrays, sampler="sde"))
        closed = length / 2 * (1 / g + g * (1 - t) / (2 * t)) ** 2 * (v - w).square().sum(1)
        assert losses(arrays, sampler="sde", **SUM) == pytest.approx(float(closed.mean()))


@pytest.mark.parametrize("knobs", [{}, SUM, {"sampler": "sde", "divide_by": "g2"}, {"divide_by": "none"}])
def test_gradients_are_differences_and_the_teachers_mean_has_none(knobs: dict[str, Any]) -> None:
    arrays = given()
    grads = evaluate_outputs("diffusionopd", arrays, overrides=knobs)["grads"]["network"]
    assert grads.keys() == {"mu"}
    for place in ((0, 0), (3, 2)):
        step = np.zeros((4, 3))
        step[place] = 1e-6
        up, down = (losses({**arrays, "mu": arrays["mu"] + sign * step}, **knobs) for sign in (1, -1))
        assert grads["mu"][place] == pytest.approx((up - down) / 2e-6, rel=1e-6)


def test_equal_means_cost_nothing() -> None:
    same = given(mu_T=given()["mu"])
    for knobs in ({}, {"sampler": "sde"}, SCORE):
        out = evaluate_outputs("diffusionopd", same, overrides=knobs)
        assert out["losses"]["network"] == 0
        assert (out["grads"]["network"]["mu"] == 0).all()


def test_the_score_function_has_the_same_mean_and_much_variance() -> None:
    """μ = 0.7, μ_T = −0.2, s = 0.5: both gradients are (μ − μ_T)/s² = 3.6 in the mean, of variance 36.4 and 0."""
    n = 200_000
    x = 0.7 + 0.5 * np.random.default_rng(2).normal(size=(n, 1))
    arrays = {
        "mu": np.full((n, 1), 0.7),
        "mu_T": np.full((n, 1), -0.2),
        "x_next": x,
        "s": np.full(n, 0.5),
        "g": np.ones(n),
    }
    sampled = n * evaluate_outputs("diffusionopd", arrays, overrides=SCORE)["grads"]["network"]["mu"]
    closed = n * evaluate_outputs("diffusionopd", arrays, overrides=SUM)["grads"]["network"]["mu"]
    np.testing.assert_allclose(closed, 3.6)
    assert sampled.mean() == pytest.approx(3.6, abs=4 * np.sqrt(36.4 / n))
    assert sampled.var() == pytest.approx(1.8**2 * 3.24 + 2 * 3.6**2, rel=0.03)


# --- rollouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ode", "sde", "cps"])
def test_states_are_the_students_own_and_each_row_has_its_tasks_teacher(sampler: str) -> None:
    made = learner(sampler=sampler)
    torch.manual_seed(0)
    batch = made.rollouts(made.tasks_of(0))
    rows, steps = 16, 3  # of four steps the last is not trained
    assert batch.x.shape == (rows * steps, 2)
    states = batch.x.reshape(steps, rows, 2)
    torch.testing.assert_close(states[1:], batch.x_next.reshape(steps, rows, 2)[:-1])
    assert batch.labels[:rows].tolist() == [k for k in range(4) for _ in range(4)]
    outputs = made.outputs(batch)
    if sampler == "ode":
        torch.testing.assert_close(outputs["mu"], batch.x_next)
    else:
        noise = ((batch.x_next - outputs["mu"]) / outputs["s"][:, None]).detach()
        assert 0.7 < float(noise.std()) < 1.3
    for k, teacher in enumerate(made.teachers):
        own = batch.labels == k
        v = teacher(batch.x[own], batch.t[own], batch.labels[own])
        expected = made.transition(batch.x[own], v, batch.t[own], batch.s[own]).mean
        torch.testing.assert_close(batch.mu_T[own], expected)


def test_off_policy_states_are_the_teachers() -> None:
    made = learner(states="teacher")
    batch = made.rollouts(made.tasks_of(0))
    torch.testing.assert_close(batch.x_next, batch.mu_T)


def test_a_teachers_guidance_is_folded_into_its_mean() -> None:
    made = learner(guidance=2.0, teacher_guidance=(3.0, 1.0))
    x, t, labels = torch.randn(8, 2), torch.rand(8), torch.arange(8) % 4
    found = made.taught(x, t, labels)
    for k, scale in enumerate((3.0, 1.0, 1.0, 1.0)):
        own, one = labels == k, made.teachers[k]
        c, u = one(x[own], t[own], labels[own]), one(x[own], t[own], torch.full((2,), 4))
        torch.testing.assert_close(found[own], u + scale * (c - u))


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    for sampler in ("ode", "sde", "cps"):
        made = learner(sampler=sampler)
        for one in made.teachers:
            one.load_state_dict(made.network.state_dict())
        (update,) = made.updates(made.rollouts(made.tasks_of(0)))
        assert update.backward()["loss"] == pytest.approx(0, abs=1e-10)


def test_a_cascade_takes_one_task_after_the_other() -> None:
    made = learner(order="cascade")
    assert [made.tasks_of(step).unique().tolist() for step in range(4)] == [[0], [1], [2], [3]]
    assert len(made.tasks_of(0)) == len(learner().tasks_of(0))


def test_the_base_is_told_labels_that_say_nothing() -> None:
    made = learner(label_dropout=0.0)
    made.stage = "pretrain"
    torch.manual_seed(0)
    batch = made.collect(0)._asdict()
    big = made.matching(4000)
    for k in range(4):
        assert abs(float(big.x0[big.labels == k].square().sum(1).mean()) - 4) < 0.3
        directions = torch.cov(big.x0[big.labels == k].T)
        assert directions[0, 0] == pytest.approx(float(directions[1, 1]), rel=0.25)
    assert batch["labels"].max() < 4
    own = made.task_batch(1)
    assert (own.labels == 1).all()
    assert float((own.x0[:, 0] - own.x0[:, 1]).abs().max()) < 1.5  # the modes of label 1 lie on the diagonal


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2, 4, 8], ids=["pretrain", "specialize", "distill"])
def test_a_run_that_is_cut_goes_on_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: int
) -> None:
    knobs = {**TINY, "sampler": "sde"}
    require_goes_on(DiffusionOPDLearner, "diffusionopd", tmp_path, monkeypatch, total=10, at=at, **knobs)


def test_distillation_brings_the_student_to_every_teacher(tmp_path: Path) -> None:
    run = selfteach.train(
        "diffusionopd", width=32, pretrain_steps=150, specialist_steps=80, specialist_lr=5e-3, steps=80, batch_size=16,
        lr=3e-3, eval_samples=300, step_counts=(2,), eval_every=230, out=tmp_path / "run",
        **{**QUIET, "samples_every": 310},
    )  # fmt: skip
    curve = dict(run.curve("eval/headline"))
    base, end = curve[230], curve[310]
    teacher = run.summary["eval/teacher"]
    assert teacher < base / 2
    assert end < base - (base - teacher) / 2
    assert {"eval/energy/2", "eval/energy/10", "eval/label/3"} <= run.summary.keys()
    html = (tmp_path / "run" / "report.html").read_text()
    for said in ("10 steps", "Energy distance"):
        assert said in html


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"estimator": "score-function"}, "take sampler sde or cps"),
        ({"estimator": "score-function", "sampler": "sde", "states": "teacher"}, "states student"),
        ({"divide_by": "g2"}, "take sampler sde"),
        ({"sampler": "cps", "timestep_fraction": 1.0}, "lower timestep_fraction"),
        ({"sampler": "sde", "sampling_steps": 1}, "2 denoising steps"),
        ({"guidance": 2.0, "label_dropout": 0.0}, "label_dropout"),
        ({"teacher_guidance": ()}, "no number"),
        ({"data": "ring"}, "one label"),
        ({"data": "nosuch"}, "no world of the plane"),
        ({"data": "diabetes"}, "no world of the plane"),
        ({"eval_samples": 1}, "2 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        selfteach.train("diffusionopd", out=tmp_path / "run", **QUIET, **knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
