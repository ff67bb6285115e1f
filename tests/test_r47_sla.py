"""Card 47: the joint head's loss and its layout, the aggregate, what is distilled, the baselines, and whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import selfteach
from saved import everything
from selfteach.recipes.r47_sla import SLA, aggregated, joint_loss, view_logits
from selfteach.report import build_report
from selfteach.testing import evaluate_outputs
from selfteach.training.trainer import Settings, Trainer
from selfteach.training.vision.classifier import VisionLearner

B, N, M = 5, 3, 4
QUIET = {"device": "cpu", "progress": None}
TINY = {
    "data": "digits", "train_size": 40, "encoder": "cnn", "width": 2, "steps": 6, "batch_size": 8, "lr": 0.05,
    "crop_padding": 1, "flip": True,
}  # fmt: skip
OBJECTIVES = ("sla-sd", "sla", "ce", "da", "mt")


def given(seed: int = 0, views: int = M, classes: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(B, views, classes, views)),
        "u": rng.normal(size=(B, views, classes)),
        "v": rng.normal(size=(B, views, views)),
        "y": rng.integers(classes, size=B),
    }


def value(arrays: dict[str, np.ndarray], **knobs: Any) -> float:
    return evaluate_outputs("sla", arrays, overrides=knobs)["losses"]["network"]


def grads(arrays: dict[str, np.ndarray], **knobs: Any) -> dict[str, np.ndarray]:
    return evaluate_outputs("sla", arrays, overrides=knobs)["grads"]["network"]


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return float(np.log(np.exp(logits).sum()) - logits[label])


# --- the losses, by their definitions -----------------------------------------------------------------------------


def test_the_joint_loss_is_that_of_class_and_transformation_together() -> None:
    a = given()
    w, y = a["w"], a["y"]
    each = [-np.log(np.exp(w[b, j, y[b], j]) / np.exp(w[b, j]).sum()) for b in range(B) for j in range(M)]
    assert value(a, objective="sla") == pytest.approx(np.mean(each), rel=1e-12)
    assert value(a, objective="sla", view_reduction="sum") == pytest.approx(M * np.mean(each), rel=1e-12)


def test_the_layout_is_that_of_the_released_code() -> None:
    """Joint index y · M + j; the aggregate reads rows j of every M and columns j of every M."""
    a = given()
    w, y = torch.tensor(a["w"]), torch.tensor(a["y"])
    flat = w.reshape(B * M, N * M)
    target = torch.stack([y * M + j for j in range(M)], 1).reshape(-1)
    assert float(joint_loss(w, y)) == pytest.approx(float(functional.cross_entropy(flat, target)), rel=1e-12)
    read = sum(flat[j::M, j::M] for j in range(M)) / M
    torch.testing.assert_close(aggregated(view_logits(w)), read)


@pytest.mark.parametrize(("temperature", "beta"), [(1.0, 1.0), (2.5, 0.3), (1.0, 0.0)])
def test_the_whole_loss_is_its_formula(temperature: float, beta: float) -> None:
    a = given()
    w, u, y = a["w"], a["u"][:, 0], a["y"]
    s = np.stack([[np.mean([w[b, j, i, j] for j in range(M)]) for i in range(N)] for b in range(B)])

    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(-1, keepdims=True)

    p, q = softmax(s / temperature), softmax(u / temperature)
    kl = (p * np.log(p / q)).sum(-1).mean()
    ce = np.mean([cross_entropy(u[b], y[b]) for b in range(B)])
    expected = value(a, objective="sla") + temperature**2 * kl + beta * ce
    assert value(a, distill_temperature=temperature, beta=beta) == pytest.approx(expected, rel=1e-12)


def test_the_baselines_are_their_formulas() -> None:
    a = given()
    u, v, y = a["u"], a["v"], a["y"]
    ce = [[cross_entropy(u[b, j], y[b]) for j in range(M)] for b in range(B)]
    which = [[cross_entropy(v[b, j], j) for j in range(M)] for b in range(B)]
    assert value(a, objective="ce") == pytest.approx(np.mean([one[0] for one in ce]), rel=1e-12)
    assert value(a, objective="da") == pytest.approx(np.mean(ce), rel=1e-12)
    assert value(a, objective="mt") == pytest.approx(np.mean(ce) + np.mean(which), rel=1e-12)


# --- identities ---------------------------------------------------------------------------------------------------


def test_one_transformation_makes_plain_cross_entropy_and_a_plain_softmax() -> None:
    a = given(views=1)
    plain = np.mean([cross_entropy(a["w"][b, 0, :, 0], a["y"][b]) for b in range(B)])
    assert value(a, objective="sla") == pytest.approx(plain, rel=1e-12)
    w = torch.tensor(a["w"])
    assert torch.equal(aggregated(view_logits(w)), w[:, 0, :, 0])


def test_columns_and_views_that_are_all_equal_aggregate_to_one_view() -> None:
    """w_ij the same for all j, and an encoder that sees no transformation."""
    w = torch.tensor(given()["w"])[:, :1, :, :1].expand(B, M, N, M)
    torch.testing.assert_close(aggregated(view_logits(w)), view_logits(w)[:, 0])


def test_identical_views_aggregate_to_one_view_of_equal_columns_alone() -> None:
    logits = view_logits(torch.tensor(given()["w"]))
    same = logits[:, :1].expand_as(logits)
    torch.testing.assert_close(aggregated(same), logits[:, 0])
    assert not torch.allclose(aggregated(logits), logits[:, 0])


def test_a_constant_on_a_column_changes_nothing_of_the_aggregate_but_of_the_joint_loss() -> None:
    a = given()
    shifted = {**a, "w": a["w"] + np.array([0.0, 3.0, 0.0, -1.0])}
    before, after = (aggregated(view_logits(torch.tensor(one["w"]))).softmax(-1) for one in (a, shifted))
    torch.testing.assert_close(before, after)
    assert value(shifted, objective="sla") != pytest.approx(value(a, objective="sla"), rel=1e-3)


def test_at_high_temperature_the_gradient_matches_centered_logits() -> None:
    a = given()
    temperature = 1e5
    found = grads(a, beta=0.0, distill_temperature=temperature)["u"][:, 0]
    s = aggregated(view_logits(torch.tensor(a["w"]))).numpy()
    u = a["u"][:, 0]
    centered = (u - u.mean(1, keepdims=True)) - (s - s.mean(1, keepdims=True))
    np.testing.assert_allclose(found, centered / (N * B), rtol=1e-3, atol=1e-6)


def test_nothing_reaches_the_joint_head_from_what_is_distilled() -> None:
    a = given()
    joint, whole = grads(a, objective="sla")["w"], grads(a, beta=2.0, distill_temperature=3.0)["w"]
    np.testing.assert_array_equal(joint, whole)


def test_the_single_head_is_trained_on_the_untransformed_view_alone() -> None:
    found = grads(given())["u"]
    assert np.abs(found[:, 0]).max() > 0.01
    assert (found[:, 1:] == 0).all()


def test_a_single_head_that_agrees_with_the_aggregate_has_no_divergence() -> None:
    a = given()
    a["u"][:, 0] = aggregated(view_logits(torch.tensor(a["w"]))).numpy() + 7
    assert value(a, beta=0.0) == pytest.approx(value(a, objective="sla"), rel=1e-12)
    np.testing.assert_allclose(grads(a, beta=0.0)["u"], 0, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_are_finite_differences(objective: str) -> None:
    """Of w what the aggregate would add is held constant, which a difference sees: there L_SLA alone is asked."""
    a, small = given(seed=1), 1e-5
    found = grads(a, objective=objective)
    for name, gradient in found.items():
        asked = "sla" if name == "w" else objective
        direction = np.random.default_rng(2).normal(size=a[name].shape)
        up, down = ({**a, name: a[name] + sign * small * direction} for sign in (1, -1))
        slope = (value(up, objective=asked) - value(down, objective=asked)) / (2 * small)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6, abs=1e-9)


# --- the learner --------------------------------------------------------------------------------------------------


def learner(**knobs: Any) -> VisionLearner:
    optimization = {"steps": 6, "batch_size": 8, "lr": 0.05}
    own = {name: one for name, one in {**TINY, **knobs}.items() if name not in optimization}
    plain = SLA()
    return VisionLearner(
        replace(plain, **own, optimization=replace(plain.optimization, **optimization)),
        Settings(device="cpu"),
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_network_puts_out_what_the_loss_reads_and_has_no_further_head(objective: str) -> None:
    one = learner(objective=objective)
    views = 1 if objective == "ce" else 4
    found = one.outputs(one.collect(0), views)
    shapes = {"w": (8, views, 10, 4), "u": (8, views, 10), "v": (8, views, 4), "y": (8,)}
    assert {name: shapes[name] for name in found} == {name: tuple(x.shape) for name, x in found.items()}
    one.recipe.loss("network", found, 0).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in one.network.parameters())
    assert one.spent(one.collect(0)) == 8 * views


def test_views_stand_at_their_own_place() -> None:
    one = learner()
    one.network.eval()
    batch = one.collect(0)
    found = one.outputs(batch, 4)
    for j, transform in enumerate(one.views):
        alone = one.network(transform(batch.x))
        torch.testing.assert_close(found["u"][:, j], alone["u"])
        torch.testing.assert_close(found["w"][:, j].flatten(1), alone["w"])


def test_inference_is_the_head_the_aggregate_and_the_first_column() -> None:
    one = learner()
    one.network.eval()
    with torch.no_grad():
        z = [one.network.encoder(transform(one.test.x)) for transform in one.views]
        weight, bias = one.network.heads["w"].weight, one.network.heads["w"].bias
        columns = [z[j] @ weight[j::4].T + bias[j::4] for j in range(4)]
        expected = {
            "sd": one.network.heads["u"](z[0]).argmax(1),
            "ag": (sum(columns) / 4).argmax(1),
            "si": columns[0].argmax(1),
        }
    found = one.predicted(one.test)
    assert found.keys() == expected.keys()
    for name, named in expected.items():
        assert (found[name] == named).double().mean() > 0.99, name
    scores = one.evaluate("train")
    assert scores["eval/headline"] == scores["eval/sd/accuracy"]
    assert learner(inference="si").evaluate("train")["eval/headline"] == scores["eval/si/accuracy"]
    assert learner(objective="sla").recipe.chosen_inference == "ag"


def test_an_evaluation_draws_nothing_and_moves_nothing() -> None:
    one = learner()
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in one.network.state_dict().items()}
    one.evaluate("before")
    list(one.samples(None, "before"))
    list(one.samples(None, "after"))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in one.network.state_dict().items())


# --- whole runs ---------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shifts and mirrors are drawn from the global generator, statistics of batches are buffers, the rate falls."""
    how = {**TINY, **QUIET, "checkpoint_every": 2}
    whole = selfteach.train("sla", out=tmp_path / "whole", **how)
    step = Trainer.step

    def dying(self: Trainer) -> None:
        if self.done == 3:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Trainer, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        selfteach.train("sla", out=tmp_path / "cut", **how)
    monkeypatch.undo()
    selfteach.train("sla", out=tmp_path / "cut", resume=True, **how)
    (one, *rows), (other, *same) = (everything(tmp_path / name, 6) for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows == same
    assert [row["lr"] for row in whole.metrics if "lr" in row] == pytest.approx(
        [0.05, 0.05, 0.005, 0.0005, 0.0005, 0.0005]
    )


def test_a_run_learns_and_its_page_shows_images(tmp_path: Path) -> None:
    run = selfteach.train(
        "sla", data="digits", train_size=200, width=6, steps=80, batch_size=32, samples_every=40,
        out=tmp_path / "run", **QUIET,
    )  # fmt: skip
    assert run.summary["eval/headline"] > 0.75
    assert run.summary["eval/ag/accuracy"] > run.summary["eval/si/accuracy"] - 0.02
    html = build_report(tmp_path / "run").read_text()
    assert html.count('src="data:image/png;base64,') >= 3
    assert "under every transformation" in html
    assert "label → named" in html
    assert (tmp_path / "run" / "model" / "classifier.safetensors").exists()


def test_images_of_a_file_are_trained_on_and_named(tmp_path: Path) -> None:
    """Color permutations of three channels, in which the class is the brightest."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=300)
    x = rng.uniform(0, 0.5, (300, 3, 8, 8))
    x[np.arange(300), y] += 0.4
    np.savez(tmp_path / "colors.npz", x=x, y=y)
    run = selfteach.train(
        "sla", data=str(tmp_path / "colors.npz"), transformation="color3", train_size=None, width=4, steps=60,
        batch_size=32, out=tmp_path / "run", **QUIET,
    )  # fmt: skip
    # a permuted image of one class is an image of another: what DA would have to call both
    assert run.summary["eval/sd/accuracy"] > 0.9


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"data": "diabetes"}, "has no labels to tell apart"),
        ({"data": "sine"}, "has no labels to tell apart"),
        ({"train_size": 100_000}, r"899 images to train on, and train_size is 100000: lower it \(none"),
        ({"transformation": "color3"}, "these images have 1: take rotation4"),
        ({"objective": "ce", "inference": "ag"}, "trains no head for inference ag: take sd"),
        ({"objective": "sla", "inference": "sd"}, "take ag or si"),
        ({"objective": "nonsense"}, "objective"),
        ({"encoder": "resnet31"}, "encoder"),
        ({"distill_temperature": 0.0}, "distill_temperature"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("sla", out=tmp_path / "run", **{**TINY, **QUIET, **knobs})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((30, 1, 6, 6)), "6 × 6 pixels: 8 × 8 is the least"),
        (np.full((30, 1, 8, 8), 255.0), "divide by 255"),
        (np.zeros((30, 8, 8)), r"1 × 8 pixels.*x is \[n, channels"),
        (np.zeros((30, 1, 8, 9)), "take rotation2"),
    ],
)
def test_a_file_of_other_images_is_refused(tmp_path: Path, x: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(30) % 3)
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train(
            "sla",
            out=tmp_path / "run",
            **{**TINY, **QUIET, "train_size": None, "data": str(tmp_path / "images.npz")},
        )
