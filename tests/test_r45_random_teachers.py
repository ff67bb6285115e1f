"""Card 45: the frozen teacher, the student's first weights, the head's invariances, probes that move nothing. No test
asks for the paper's gain: it is not there at this size (docs/methods/45-random-teachers.md)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import selfteach
from cut import require_goes_on
from selfteach.recipes.network import NetworkOptimization
from selfteach.recipes.r45_random_teachers import RandomTeachers
from selfteach.task.arrays import load_arrays
from selfteach.testing import evaluate_outputs
from selfteach.training.progress import Silent
from selfteach.training.randomness import seeded
from selfteach.training.trainer import Settings, Trainer
from selfteach.training.vision.random_teacher import Bottleneck, Network, RandomTeacherLearner, student_of

SIZES = {
    "data": "digits",
    "encoder": "conv",
    "width": 4,
    "hidden_dim": 16,
    "bottleneck_dim": 8,
    "out_dim": 32,
}
QUIET = {"samples_every": 0, "device": "cpu", "progress": None}


def outputs(seed: int = 0) -> dict[str, np.ndarray]:
    s, t = np.random.default_rng(seed).normal(size=(2, 5, 7))
    return {"s": s, "t": t}


def trainer(steps: int = 8, optim: str = "adamw", lr: float = 1e-3, **knobs: object) -> Trainer:
    how = NetworkOptimization(optim=optim, lr=lr, steps=steps, batch_size=16)
    settings = Settings(device="cpu", samples_every=0)
    recipe = RandomTeachers(**{**SIZES, "optimization": how, **knobs})
    return Trainer(RandomTeacherLearner(recipe, settings), None, Silent(), settings)


# --- the loss ---------------------------------------------------------------------------------------------------


def test_the_loss_is_the_divergence_above_the_teachers_entropy() -> None:
    given = outputs()
    t, s = (torch.tensor(given[name]).log_softmax(-1) for name in ("t", "s"))
    entropy, kl = -(t.exp() * t).sum(-1).mean(), (t.exp() * (t - s)).sum(-1).mean()
    out = evaluate_outputs("random-teachers", given)
    assert out["losses"]["student"] == pytest.approx(float(entropy + kl))
    assert out["losses"]["student"] > float(entropy)
    same = evaluate_outputs("random-teachers", {**given, "s": given["t"]})
    assert same["losses"]["student"] == pytest.approx(float(entropy))
    assert np.abs(same["grads"]["student"]["s"]).max() < 1e-16


@pytest.mark.parametrize("distance", ["cross_entropy", "mse"])
def test_the_gradient_is_that_of_finite_differences_and_the_teacher_gets_none(distance: str) -> None:
    given, step = outputs(), 1e-6
    out = evaluate_outputs("random-teachers", given, overrides={"distance": distance})
    assert set(out["grads"]["student"]) == {"s"}
    for i, j in ((0, 0), (2, 5), (4, 6)):
        ends = []
        for sign in (1, -1):
            s = given["s"].copy()
            s[i, j] += sign * step
            moved = evaluate_outputs("random-teachers", {**given, "s": s}, overrides={"distance": distance})
            ends.append(moved["losses"]["student"])
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(out["grads"]["student"]["s"][i, j], abs=1e-9)


# --- where the student begins -----------------------------------------------------------------------------------


def two(seed: int = 0, **knobs: object) -> tuple[RandomTeachers, Network, Network]:
    recipe = RandomTeachers(**{**SIZES, **knobs})
    with seeded(seed):
        return recipe, Network(recipe, 1), Network(recipe, 1)


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(network.named_parameters())


def test_the_ends_of_the_interpolation_are_the_two_draws() -> None:
    recipe, teacher, fresh = two(alpha=0.0)
    near, far = student_of(recipe, teacher, fresh), student_of(RandomTeachers(alpha=1.0), teacher, fresh)
    copy = student_of(RandomTeachers(init="teacher", alpha=0.7), teacher, fresh)
    for name, one in weights(teacher).items():
        assert weights(near)[name].equal(one)
        assert weights(copy)[name].equal(one)
        assert weights(far)[name].equal(weights(fresh)[name])


@pytest.mark.parametrize(("init", "near"), [("interpolated", 0.7), ("neighborhood", 1.0)])
def test_the_students_weights_are_as_large_as_the_teachers(init: str, near: float) -> None:
    recipe, teacher, fresh = two(width=32, init=init, alpha=0.3)
    student = weights(student_of(recipe, teacher, fresh))
    for name, one in weights(teacher).items():
        other = weights(fresh)[name]
        if not one.equal(other):
            expected = (near * one + 0.3 * other) / math.sqrt(near**2 + 0.3**2)
            torch.testing.assert_close(student[name], expected)
        if one.numel() > 5000:
            assert student[name].std().item() == pytest.approx(one.std().item(), rel=0.05)


def test_scales_and_biases_that_no_draw_changes_stay() -> None:
    recipe, teacher, fresh = two(encoder="resnet20", alpha=0.5)
    student = weights(student_of(recipe, teacher, fresh))
    ones = [one for name, one in student.items() if name.endswith("1.weight") and one.ndim == 1]
    assert ones
    assert all((one == 1).all() for one in ones)
    assert not student["head.mlp.0.bias"].any()


def test_in_single_precision_the_papers_alpha_is_a_copy_but_for_what_is_near_zero() -> None:
    recipe, teacher, fresh = two(width=16)
    student = weights(student_of(recipe, teacher, fresh))
    changed = sum(int((one != student[name]).sum()) for name, one in weights(teacher).items())
    assert changed < 0.01 * sum(one.numel() for one in student.values())


# --- the head ---------------------------------------------------------------------------------------------------


def test_the_head_gives_cosines_that_no_length_changes() -> None:
    torch.manual_seed(0)
    head = Bottleneck(6, 16, 8, 32).double()
    z = torch.randn(5, 8, dtype=torch.float64)
    y = head.compared(z)
    assert y.abs().max() <= 1
    torch.testing.assert_close(head.compared(3.7 * z), y)
    torch.testing.assert_close(y[2, 3], functional.cosine_similarity(z[2], head.directions[3], dim=0))
    with torch.no_grad():
        head.directions *= torch.rand(32, 1, dtype=torch.float64) + 0.1
    torch.testing.assert_close(head.compared(z), y)


# --- the learner ------------------------------------------------------------------------------------------------


def test_a_copy_has_nothing_to_learn() -> None:
    """But for rounding, which the normalization of a tiny z magnifies: hence float64 here."""
    _, teacher, _ = two()
    teacher = teacher.double()
    student = student_of(RandomTeachers(init="teacher"), teacher, teacher)
    x = torch.randn(9, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = RandomTeachers().loss("student", {"s": student(x), "t": teacher(x)}, 0)
    t = teacher(x).detach().log_softmax(-1)
    assert loss.item() == pytest.approx(float(-(t.exp() * t).sum(-1).mean()), abs=1e-12)
    loss.backward()
    assert max(float(one.grad.abs().max()) for one in student.parameters()) < 1e-9


def test_a_copy_without_anything_to_learn_does_not_move_at_all() -> None:
    run = trainer(init="teacher", optim="sgd", lr=0.1, distance="mse", head="linear")
    for _ in range(3):
        run.step()
    teacher = run.learner.teacher.state_dict()
    assert all(one.equal(teacher[name]) for name, one in run.learner.student.state_dict().items())


@pytest.mark.parametrize("encoder", ["conv", "resnet20"])
def test_the_teacher_never_moves_and_the_student_comes_nearer(encoder: str) -> None:
    run = trainer(alpha=1.0, encoder=encoder, distance="mse", lr=1e-2)
    rows: list[dict[str, float]] = []
    run.learner.observe = rows.append
    before = {name: one.clone() for name, one in run.learner.teacher.state_dict().items()}
    for _ in range(8):
        run.step()
    assert all(one.equal(before[name]) for name, one in run.learner.teacher.state_dict().items())
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert all(row["kl/teacher"] > 0 for row in rows)


def test_probing_changes_neither_weights_nor_statistics_nor_random_numbers() -> None:
    run = trainer(encoder="resnet20", alpha=0.5)
    run.step()
    before = {
        n: one.clone() for m in run.wrapped.values() for n, one in m.state_dict(prefix=str(id(m))).items()
    }
    drawn = torch.get_rng_state()
    first = run.learner.evaluate("train")
    list(run.learner.samples(None, "after"))
    assert torch.get_rng_state().equal(drawn)
    for module in run.wrapped.values():
        for name, one in module.state_dict(prefix=str(id(module))).items():
            assert one.equal(before[name])
    assert run.learner.evaluate("train") == first
    assert run.learner.student.training
    assert not run.learner.teacher.training


def test_before_the_first_step_the_student_is_the_teacher_to_the_probes() -> None:
    found = trainer(alpha=1e-10).learner.evaluate("before")
    assert found["eval/gain"] == pytest.approx(0, abs=0.005)
    assert found["eval/headline"] == found["eval/probe"]
    assert found["eval/input_probe"] > 0.9
    assert {f"eval/{who}_{what}" for who in ("teacher", "input") for what in ("probe", "knn")} <= set(found)


def test_noise_has_the_datas_mean_and_deviation_and_no_row_of_it() -> None:
    run = trainer(inputs="noise")
    x, train = run.learner.collect(0).x, run.learner.data.train.x
    assert x.shape == (16, 1, 8, 8)
    for one in (x, train):
        assert (float(one.mean()), float(one.std())) == pytest.approx((0, 1), abs=0.1)
    assert float(x.min()) < float(train.min()) - 0.5


@pytest.mark.parametrize("encoder", ["conv", "resnet20"])
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    knobs = {**SIZES, "encoder": encoder, "alpha": 0.5, "optim": "adamw", "steps": 6, "batch_size": 8}
    saved = require_goes_on(
        RandomTeacherLearner, "random-teachers", tmp_path, monkeypatch, total=6, at=5, **knobs
    )
    assert any("running_mean" in place for place in saved) == (encoder == "resnet20")
    assert any("exp_avg" in place for place in saved)


def test_a_run_writes_both_networks_and_a_picture_of_the_features(tmp_path: Path) -> None:
    knobs = {**SIZES, "data": "mnist1d", "steps": 2}
    run = selfteach.train("random-teachers", out=tmp_path / "run", **{**QUIET, "samples_every": 1}, **knobs)
    assert {one.name for one in (tmp_path / "run" / "model").iterdir()} >= {
        "student.safetensors",
        "teacher.safetensors",
    }
    html = Path(run.report()).read_text()
    assert html.count("<circle") >= 250
    assert "linear probe" in html


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"data": "sine"}, "no labels"),
        ({"alpha": 1.5}, "alpha must be at most 1"),
        ({"encoder": "resnet18"}, "encoder must be"),
        ({"task": "tutor"}, "has no task"),
        ({"data": "missing.npz"}, "is no file"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("random-teachers", out=tmp_path / "run", **QUIET, **knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_inputs_that_do_not_differ_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, x=np.ones((40, 1, 4, 4)), y=np.arange(40) % 2)
    with pytest.raises(selfteach.UserError, match="one number throughout"):
        RandomTeacherLearner(RandomTeachers(**{**SIZES, "data": str(file)}), Settings(device="cpu"))


# --- the signals ------------------------------------------------------------------------------------------------


def test_signals_are_drawn_by_the_seed_and_are_standardized() -> None:
    one, again, other = load_arrays("mnist1d", 0), load_arrays("mnist1d", 0), load_arrays("mnist1d", 1)
    assert (one.train.x == again.train.x).all()
    assert not (one.train.x == other.train.x).any()
    x = np.concatenate([part.x for part in (one.train, one.valid, one.test)])
    y = np.concatenate([part.y for part in (one.train, one.valid, one.test)])
    assert x.shape == (5000, 1, 40)
    assert (x.mean(), x.std()) == pytest.approx((0, 1), abs=1e-12)
    assert np.bincount(y).tolist() == [500] * 10


def test_signals_are_as_hard_as_those_of_the_papers_authors() -> None:
    """On theirs (4000 to fit, 1000 held out) logistic regression names 0.33 and five neighbors 0.60 rightly."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    from selfteach.task.mnist1d import signals

    x, y = signals(5000, 0)
    given = x[:4000, 0], y[:4000]
    assert LogisticRegression(max_iter=300).fit(*given).score(x[4000:, 0], y[4000:]) == pytest.approx(
        0.33, abs=0.05
    )
    assert KNeighborsClassifier(5).fit(*given).score(x[4000:, 0], y[4000:]) == pytest.approx(0.6, abs=0.06)
