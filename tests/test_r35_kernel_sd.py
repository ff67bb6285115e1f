"""Card 35: the published table, the limit, closed forms of the basis, and the optimal weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import selfteach
from selfteach.recipes.r35_kernel_sd import KernelSD
from selfteach.testing import evaluate_outputs
from selfteach.training.classic.ridge import RidgeLearner
from selfteach.training.trainer import Settings

TABLE = {
    0.0: (0.16477, 0.15076, 0.14915, 0.15561, 0.16735, 0.18251),
    0.25: (0.16477, 0.15309, 0.14958, 0.14903, 0.14946, 0.15011),
    0.35: (0.16477, 0.15424, 0.15089, 0.14983, 0.14954, 0.14948),
}
"""Mean squared error to the sine on 101 points, steps 1 to 6."""
LIMIT = {0.0: 0.49505, 0.25: 0.15250, 0.35: 0.14959}
QUIET = {"samples_every": 0, "device": "cpu", "progress": None}


def learner(**knobs: object) -> RidgeLearner:
    return RidgeLearner(KernelSD(**knobs), Settings(device="cpu"))


def after(one: RidgeLearner, steps: int) -> RidgeLearner:
    for step in range(steps):
        for update in one.updates(one.collect(step)):
            update.backward()
        one.previous.after_batch()
    return one


@pytest.mark.parametrize("alpha", TABLE)
def test_a_run_gives_the_published_table_to_five_digits(tmp_path: Path, alpha: float) -> None:
    run = selfteach.train("kernel-sd", alpha=alpha, eval_every=1, out=tmp_path / "run", **QUIET)
    assert [round(value, 5) for _, value in run.curve("eval/headline")[1:]] == list(TABLE[alpha])
    assert round(run.curve("eval/mse_limit")[0][1], 5) == LIMIT[alpha]


@pytest.mark.parametrize("alpha", [0.05, 0.35, 1.0])
def test_many_steps_are_the_ridge_of_lambda_over_alpha(alpha: float) -> None:
    one = after(learner(alpha=alpha), 600)
    predicted = one.kernel(one.x, one.x) @ one.limit()
    torch.testing.assert_close(one.predict(one.x), predicted, rtol=1e-9, atol=1e-12)


def test_without_the_truth_the_fit_goes_to_nothing() -> None:
    assert (
        after(learner(alpha=0.0), 300).predict(torch.linspace(0, 1, 7).double()[:, None]).abs().max() < 1e-12
    )


def test_with_the_truth_alone_the_first_step_is_the_last() -> None:
    once, often = after(learner(alpha=1.0), 1), after(learner(alpha=1.0), 9)
    torch.testing.assert_close(once.model.coefficients, often.model.coefficients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_basis_is_its_closed_form_and_the_fit_follows_it(alpha: float) -> None:
    one, steps = after(learner(alpha=alpha), 5), 5
    a = one.eigenvalues / (one.eigenvalues + 0.2)
    power = ((1 - alpha) * a) ** steps
    # B of step 1 is A: the truth is its own teacher, so that alpha says nothing there.
    closed = power / (1 - alpha) + alpha * a * (1 - ((1 - alpha) * a) ** (steps - 1)) / (1 - (1 - alpha) * a)
    torch.testing.assert_close(one.model.basis, closed, rtol=1e-10, atol=1e-14)
    v = one.eigenvectors
    torch.testing.assert_close(one.predict(one.x), v @ (one.model.basis[:, None] * (v.T @ one.y)))


def test_the_optimal_weight_is_the_best_of_a_grid() -> None:
    one = after(learner(data="diabetes", gamma=0.02, ridge_lambda=3.0, alpha_rule="optimal"), 2)
    before = one.previous.predictions
    x, y = one.valid
    errors = {}
    for alpha in np.linspace(0, 1, 2001):
        fit = one.predict(x, one.solved(alpha * one.y + (1 - alpha) * before))
        errors[float(alpha)] = float((fit - y).square().sum())
    assert one.optimal(before) == pytest.approx(min(errors, key=errors.__getitem__), abs=5.1e-4)


def test_the_fit_is_the_minimum_of_the_loss() -> None:
    """In every direction: the loss of the recipe is least where the learner fits."""
    one, rng = after(learner(), 2), np.random.default_rng(0)
    batch, gram = one.collect(2), one.kernel(one.x, one.x).numpy()
    best = one.solved(batch.targets).numpy()

    def loss(coefficients: np.ndarray) -> float:
        f = gram @ coefficients
        given = {"f": f, "y": one.y.numpy(), "t": batch.before.numpy(), "norm": (coefficients * f).sum()}
        return evaluate_outputs("kernel-sd", given)["losses"]["network"]

    least = loss(best)
    for _ in range(8):
        assert loss(best + 1e-3 * rng.normal(size=best.shape)) > least


def test_the_loss_is_the_mixed_targets_but_for_a_constant() -> None:
    rng = np.random.default_rng(1)
    f, y, t = rng.normal(size=(3, 6, 2))
    given = {"f": f, "y": y, "t": t, "norm": np.array(0.0)}
    out = evaluate_outputs("kernel-sd", given, overrides={"alpha": 0.3})
    np.testing.assert_allclose(out["grads"]["network"]["f"], f - (0.3 * y + 0.7 * t))
    assert "t" not in out["grads"]["network"]
    with pytest.raises(ValueError, match="lack 'norm'"):
        evaluate_outputs("kernel-sd", {k: v for k, v in given.items() if k != "norm"})
    with pytest.raises(ValueError, match="have no 'h'"):
        evaluate_outputs("kernel-sd", {**given, "h": f})


def test_labels_are_fitted_as_columns_and_scored_as_classes(tmp_path: Path) -> None:
    run = selfteach.train(
        "kernel-sd", data="digits", gamma=0.05, alpha_rule="optimal", steps=3, out=tmp_path / "run", **QUIET
    )
    assert run.summary["eval/accuracy"] > 0.95
    assert all(0 <= row["alpha"] <= 1 for row in run.metrics if "alpha" in row)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"data": "nosuch"}, "unknown"),
        ({"alpha_rule": "optimal"}, "take constant"),
        ({"data": "missing.npz"}, "is no file"),
        ({"task": "tutor"}, "has no task"),
        ({"model": "x"}, "has no model"),
        ({"lr": 1.0}, "no knob 'lr'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("kernel-sd", out=tmp_path / "run", **QUIET, **knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
