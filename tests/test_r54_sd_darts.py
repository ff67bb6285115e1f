"""Card 54: plain DARTS where nothing teaches, the vote, the ring of snapshots, discretization, resumption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import selfteach
from cut import require_goes_on
from selfteach.recipes.network import NetworkOptimization
from selfteach.recipes.r54_sd_darts import SDDarts
from selfteach.testing import evaluate_outputs
from selfteach.training.progress import Silent
from selfteach.training.trainer import Settings, Trainer
from selfteach.training.vision.darts import DartsLearner
from selfteach.training.vision.labelled import labelled
from selfteach.training.vision.supernet import Architecture, Edge, Supernet, discretized, named

SIZES = {"channels": 4, "cells": 2, "nodes": 2, "spacing": 2, "power_steps": 0}
QUIET = {"samples_every": 0, "device": "cpu", "progress": None}


def given(k: int, n: int = 5, c: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"f": rng.normal(size=(n, c)), "y": rng.integers(c, size=n), "g": rng.normal(size=(k, n, c))}


def of(arrays: dict[str, np.ndarray], **knobs: object) -> tuple[float, np.ndarray, float]:
    """The weights' loss, its gradient, and the architecture's loss."""
    out = evaluate_outputs("sd-darts", arrays, overrides=knobs)
    return out["losses"]["weights"], out["grads"]["weights"]["f"], out["losses"]["architecture"]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# --- the loss ---------------------------------------------------------------------------------------------------


def test_without_teachers_or_weight_it_is_cross_entropy_to_the_bit() -> None:
    arrays = given(3)
    y = arrays["y"]
    plain, grad, _ = of({**arrays, "g": arrays["g"][:0]})
    p = softmax(arrays["f"])
    assert plain == pytest.approx(-np.log(p[range(5), y]).mean())
    np.testing.assert_allclose(grad, (p - np.eye(4)[y]) / 5)
    for other in (of(arrays, distill_weight=0.0), of(arrays, distill_into="architecture")):
        assert other[0] == plain
        assert (other[1] == grad).all()


def test_a_teacher_that_is_the_student_has_no_divergence_and_no_gradient() -> None:
    arrays = given(1)
    plain, grad, _ = of({**arrays, "g": arrays["g"][:0]})
    same, pulled, _ = of({**arrays, "g": arrays["f"][None]}, distill_weight=7.0, distill_temperature=2.0)
    assert same == pytest.approx(plain, abs=1e-14)
    np.testing.assert_allclose(pulled, grad, atol=1e-15)


@pytest.mark.parametrize("vote", ["soft", "majority"])
def test_teachers_have_no_order_and_several_alike_are_one(vote: str) -> None:
    arrays = given(4)
    loss, grad, _ = of(arrays, vote=vote)
    turned, other, _ = of({**arrays, "g": arrays["g"][[2, 0, 3, 1]]}, vote=vote)
    assert turned == pytest.approx(loss, abs=1e-14)
    np.testing.assert_allclose(other, grad, atol=1e-15)
    one = of({**arrays, "g": arrays["g"][:1]}, vote=vote)
    many = of({**arrays, "g": np.repeat(arrays["g"][:1], 5, axis=0)}, vote=vote)
    assert many[0] == pytest.approx(one[0], abs=1e-14)


def test_a_soft_vote_is_the_mean_of_probabilities_a_majority_the_class_most_name() -> None:
    g = torch.tensor([[[3.0, 0, 0]], [[0, 2.0, 0]], [[5.0, 0, 0]], [[0, 9.0, 0]], [[0, 1.0, 2.0]]])
    soft = SDDarts(distill_temperature=2.0).voted(g)
    torch.testing.assert_close(soft, (g / 2).softmax(-1).mean(0))
    assert SDDarts(vote="majority").voted(g[:3]).tolist() == [[1, 0, 0]]
    assert SDDarts(vote="majority").voted(g).tolist() == [[0.5, 0.5, 0]]


@pytest.mark.parametrize("vote", ["soft", "majority"])
def test_the_gradient_is_that_of_finite_differences_and_teachers_get_none(vote: str) -> None:
    arrays, step = given(3), 1e-6
    knobs = {"vote": vote, "distill_temperature": 1.7, "distill_weight": 0.6, "ce_weight": 0.8}
    out = evaluate_outputs("sd-darts", arrays, overrides={**knobs, "distill_into": "both"})
    assert out["losses"]["weights"] == out["losses"]["architecture"]
    assert set(out["grads"]["weights"]) == {"f"}
    for i, j in ((0, 0), (3, 2), (4, 1)):
        ends = []
        for sign in (1, -1):
            f = arrays["f"].copy()
            f[i, j] += sign * step
            ends.append(of({**arrays, "f": f}, **knobs)[0])
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(out["grads"]["weights"]["f"][i, j], abs=1e-8)


def test_the_temperature_is_that_of_hinton() -> None:
    """τ² KL of softened distributions, against a sum by hand."""
    arrays = given(2)
    p = softmax(arrays["g"] / 3).mean(0)
    kl = (p * np.log(p / softmax(arrays["f"] / 3))).sum(-1).mean()
    plain = of({**arrays, "g": arrays["g"][:0]})[0]
    assert of(arrays, distill_temperature=3.0, distill_weight=0.5)[0] == pytest.approx(plain + 0.5 * 9 * kl)


# --- the network ------------------------------------------------------------------------------------------------


def test_an_edge_is_the_weighted_sum_of_its_operations() -> None:
    torch.manual_seed(0)
    edge, x = Edge(4).double(), torch.randn(3, 4, 6, 6, dtype=torch.float64)
    alone = [edge(x, row) for row in torch.eye(5, dtype=torch.float64)]
    assert not alone[0].any()
    assert (alone[1] == x).all()
    # The mean of a 3 × 3 field, of the four places that a corner has.
    torch.testing.assert_close(alone[4][:, :, 0, 0], x[:, :, :2, :2].mean((2, 3)))
    torch.testing.assert_close(alone[4][:, :, 2, 3], x[:, :, 1:4, 2:5].mean((2, 3)))
    weights = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    torch.testing.assert_close(edge(x, weights), sum(w * one for w, one in zip(weights, alone, strict=True)))


def test_an_images_logits_do_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    net, mixing = Supernet(1, 4, 2, 2, 10).double(), Architecture(2)().double()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net(x, mixing)[2:3], net(x[2:3], mixing))


def test_discretization_keeps_the_strongest_but_never_nothing() -> None:
    mixing = torch.tensor(
        [
            [0.90, 0.01, 0.04, 0.03, 0.02],  # into node 1: "zero" is strongest, and conv1 next
            [0.10, 0.60, 0.10, 0.10, 0.10],
            [0.10, 0.10, 0.10, 0.50, 0.20],
            [0.10, 0.20, 0.20, 0.20, 0.30],  # into node 3: the weakest of three goes
            [0.05, 0.05, 0.80, 0.05, 0.05],
            [0.30, 0.05, 0.05, 0.55, 0.05],
        ]
    )
    one = discretized(mixing, 3)
    assert named(one, 3) == ["0→1 conv1", "0→2 skip", "1→2 conv3", "1→3 conv1", "2→3 conv3"]
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert discretized(one, 3).equal(one)


# --- the learner ------------------------------------------------------------------------------------------------


def trainer(**knobs: object) -> Trainer:
    how = NetworkOptimization(optim="sgd", lr=0.05, steps=8, batch_size=8, momentum=0.9)
    recipe = SDDarts(**{**SIZES, "optimization": how, **knobs})
    settings = Settings(device="cpu", samples_every=0)
    return Trainer(DartsLearner(recipe, settings), None, Silent(), settings)


def stepped(run: Trainer, steps: int) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        run.step()
    return {n: p.detach().clone() for m in run.wrapped.values() for n, p in m.named_parameters()}


def test_before_the_first_snapshot_and_without_teachers_a_step_is_plain_darts_to_the_bit() -> None:
    plain = stepped(trainer(teachers=0), 6)
    weightless = stepped(trainer(distill_weight=0.0), 6)
    early = stepped(trainer(spacing=100), 6)
    taught = stepped(trainer(), 6)
    assert all(plain[name].equal(one) for name, one in (*weightless.items(), *early.items()))
    assert any(not plain[name].equal(one) for name, one in taught.items())


def test_one_batch_moves_weights_on_their_split_and_then_the_architecture_on_its_own() -> None:
    run = trainer()
    batch = run.learner.collect(0)
    before = stepped(run, 0)
    moved = []
    for update in run.learner.updates(batch):
        run.update(update, batch)
        after = stepped(run, 0)
        moved.append({name for name, one in after.items() if not one.equal(before[name])})
        before = after
    assert "alpha" not in moved[0]
    assert "stem.weight" in moved[0]
    assert moved[1] == {"alpha"}
    train = {tuple(one.flatten().tolist()) for one in run.learner.data.train.x}
    assert all(tuple(one.flatten().tolist()) in train for one in batch.train.x)
    assert not any(tuple(one.flatten().tolist()) in train for one in batch.valid.x)


def test_the_ring_keeps_the_last_k_and_none_of_them_moves() -> None:
    run = trainer(teachers=2)
    x, seen = run.learner.data.test.x[:4], []
    for step in range(1, 9):
        run.step()
        if step % 2 == 0:
            with torch.no_grad():
                seen.append(run.learner.supernet(x, run.learner.architecture()))
    assert run.learner.snapshots.logits(x).equal(torch.stack(seen[-2:]))


def test_a_teacher_that_is_the_present_state_pulls_nothing() -> None:
    run = trainer(teachers=1)
    run.learner.snapshots.take()
    batch = run.learner.collect(0)
    recipe = run.learner.recipe
    grads = []
    for weight in (0.0, 1.0):
        loss = replace(recipe, distill_weight=weight).loss("weights", run.learner.outputs(batch.train), 0)
        grads.append(torch.autograd.grad(loss, list(run.learner.supernet.parameters())))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_a_search_learns_and_its_network_is_trained_anew(tmp_path: Path) -> None:
    out = tmp_path / "run"
    knobs = {
        **SIZES,
        "channels": 8,
        "steps": 10,
        "lr": 0.1,
        "batch_size": 32,
        "retrain_steps": 100,
        "power_steps": 4,
    }
    run = selfteach.train("sd-darts", preset="paper", out=out, **QUIET, **knobs)
    search = next(row for row in run.metrics if row["step"] == 10 and "eval/headline" in row)
    assert search["eval/gap"] == pytest.approx(search["eval/supernet"] - search["eval/headline"])
    assert search["eval/lambda_max"] > 0
    assert run.summary["headline"] > 0.4
    assert "eval/lambda_max" not in run.summary
    assert (out / "model" / "supernet.safetensors").exists()


@pytest.mark.parametrize("batches", [5, 9])
def test_a_stopped_run_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    """Two optimizers and a ring of snapshots, stopped in either stage."""
    how = {"optim": "sgd", "lr": 0.05, "momentum": 0.9, "schedule": "cosine"}
    knobs = {**SIZES, **how, "steps": 7, "batch_size": 8, "teachers": 2, "retrain_steps": 4}
    saved = require_goes_on(DartsLearner, "sd-darts", tmp_path, monkeypatch, total=11, at=batches, **knobs)
    assert any("momentum_buffer" in place for place in saved)


def test_the_ring_is_saved_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = {**SIZES, "steps": 6, "batch_size": 8, "teachers": 2, "retrain_steps": 0}
    saved = require_goes_on(DartsLearner, "sd-darts", tmp_path, monkeypatch, total=6, at=5, **knobs)
    assert {place.split("/")[4] for place in saved if "/ring/" in place} == {"0", "1"}


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"cells": 5}, "take fewer cells"),
        ({"data": "diabetes"}, "no labels"),
        ({"arch_betas": (0.5, 1.0)}, "arch_betas"),
        ({"data": "digit"}, "did you mean digits"),
        ({"teachers": -1}, "teachers must be 0 or more"),
        ({"vote": "loud"}, "vote must be"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("sd-darts", out=tmp_path / "run", **QUIET, **knobs)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("shape", "labels", "said"),
    [((40, 64), 3, r"of shape \[64\]"), ((40, 1, 8, 8), 1, "two or more"), ((2, 1, 8, 8), 2, "held out to")],
)
def test_a_file_that_holds_no_labelled_images_is_refused(
    tmp_path: Path, shape: tuple[int, ...], labels: int, said: str
) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, x=np.random.default_rng(0).normal(size=shape), y=np.arange(shape[0]) % labels)
    with pytest.raises(selfteach.UserError, match=said):
        labelled(str(file), 0)


def test_signals_are_images_of_height_one(tmp_path: Path) -> None:
    file = tmp_path / "own.npz"
    np.savez(file, x=np.arange(720.0).reshape(40, 2, 9), y=np.arange(40) % 3)
    assert labelled(str(file), 0).train.x.shape[1:] == (2, 1, 9)
