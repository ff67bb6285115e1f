"""``testing.evaluate`` of a method that trains two roles and compares hidden states: its own kind of recipe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from arrays import arrays
from selfteach.objective.divergence import ForwardKL, ReverseKL
from selfteach.objective.hidden import Hidden
from selfteach.objective.statistics import Statistics
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, PolicyGradient, Term
from selfteach.recipes.r01_opsd import OPSD
from selfteach.testing import evaluate


@dataclass(frozen=True)
class Both(OPSD):
    """Two roles towards each other, and the student's features to the teacher's."""

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield Match(name="up", role="teacher", target=FromRole("student"), divergence=ReverseKL())
        yield Match(name="down", target=FromRole("teacher"), divergence=ForwardKL())
        yield Hidden(name="hidden", target="teacher", mean_over="sequences")


@dataclass(frozen=True)
class Reader(OPSD):
    """Reads every further column of the contract, and the old policy."""

    def terms(self, stats: Statistics) -> Iterable[Term]:
        eos = stats.special("eos") | (stats.turn == 1)
        better = (stats.pair >= 0) & stats.origin("student")
        advantage = stats.number("score") * better + stats.turn_mean(stats.old_log_prob())[:, 0]
        yield PolicyGradient(name="p", advantage=advantage, where=~eos, mean_over=float(stats.length.sum()))


def given() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    batch = arrays()
    shape = (*batch["ids"].shape, 5)
    return {
        **batch,
        "student_hidden": rng.normal(size=shape),
        "teacher_hidden": {"teacher": rng.normal(size=shape)},
    }


def test_gradients_come_by_trained_role_in_logits_and_in_hidden_states() -> None:
    batch = given()
    out = evaluate(Both(loss_temperature=1.0), batch)
    s, t, h, g = (
        torch.tensor(x).requires_grad_()
        for x in (batch["student_logits"], batch["teacher_logits"]["teacher"], batch["student_hidden"],
                  batch["teacher_hidden"]["teacher"])
    )  # fmt: skip
    mask = torch.tensor(batch["mask"])
    p, q = s.log_softmax(-1), t.log_softmax(-1)
    up = (q.exp() * (q - p.detach())).sum(-1)
    down = (q.detach().exp() * (q.detach() - p)).sum(-1)
    per_row = (((h - g.detach()) ** 2).mean(-1) * mask).sum(1) / mask.sum(1)
    loss = ((up + down) * mask).sum() / mask.sum() + per_row.mean()
    loss.backward()
    assert out["loss"] == pytest.approx(float(loss.detach()), rel=1e-12)
    assert set(out["grads"]) == {"student", "teacher"}
    assert set(out["grad_hidden"]) == {"student"}
    assert s.grad is not None
    assert t.grad is not None
    assert h.grad is not None
    np.testing.assert_allclose(out["grad"], s.grad.numpy(), atol=1e-14)
    np.testing.assert_allclose(out["grads"]["teacher"], t.grad.numpy(), atol=1e-14)
    np.testing.assert_allclose(out["grad_hidden"]["student"], h.grad.numpy(), atol=1e-14)
    assert out["token"]["loss/hidden"].shape == batch["ids"].shape


def test_a_role_that_is_only_read_has_no_gradient() -> None:
    assert set(evaluate("opsd", arrays())["grads"]) == {"student"}


def test_every_column_of_the_contract_reaches_the_recipe() -> None:
    batch = arrays()
    further = {
        "turn": np.arange(9) // 3 * np.ones((6, 1), dtype=int),
        "pair": np.array([1, -1, 0, -1, -1, 3]),
        "origin": ["student", "student", "data", "student", "edit", "student"],
        "numbers": {"score": np.arange(6.0)},
        "special": {"eos": 4},
        "old_log_probs": {"student": -np.arange(54.0).reshape(6, 9) / 10},
    }
    out = evaluate(Reader(loss_temperature=1.0), {**batch, **further})
    p = torch.tensor(batch["student_logits"]).log_softmax(-1).numpy()
    own = np.take_along_axis(p, batch["ids"][..., None], -1)[..., 0]
    better = np.array([1, 0, 0, 0, 0, 1])
    old = further["old_log_probs"]["student"]
    turn_mean = np.array([old[i, :3][batch["mask"][i, :3]].mean() for i in range(6)])
    advantage = (np.arange(6.0) * better + turn_mean)[:, None]
    where = batch["mask"] & (batch["ids"] != 4) & (further["turn"] != 1)
    expected = -(advantage * own * where).sum() / batch["mask"].sum()
    assert out["loss"] == pytest.approx(expected, rel=1e-12)
    for name in ("turn", "pair", "origin", "numbers", "special"):
        left = {k: v for k, v in {**batch, **further}.items() if k != name}
        with pytest.raises(ValueError, match=name):
            evaluate(Reader(loss_temperature=1.0), left)
