"""Losses and gradients held against TRL's own functions: DPO, KTO, GKD, GOLD, SDPO (``make test-peers``).

Its trainers' loss methods are called as they are, with a model that returns the logits of our arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from arrays import arrays
from selfteach.testing import evaluate

pytestmark = pytest.mark.slow
trl = pytest.importorskip("trl", reason="TRL is in an environment of its own: make test-peers")


def given(*teachers: str) -> dict[str, Any]:
    return arrays(teachers=teachers)


def logits_of(batch: dict[str, Any]) -> Tensor:
    return torch.tensor(batch["student_logits"]).requires_grad_()


def agree(
    out: dict[str, Any], theirs: Tensor, logits: Tensor, *, value: bool = True, rounding: float = 1e-12
) -> None:
    (gradient,) = torch.autograd.grad(theirs, logits)
    assert np.abs(out["grad"]).max() > 1e-4
    np.testing.assert_allclose(out["grad"], gradient.numpy(), rtol=1e3 * rounding, atol=1e-2 * rounding)
    if value:
        assert float(out["loss"]) == pytest.approx(float(theirs.detach()), rel=rounding)


# --- trainers of whole answers ----------------------------------------------------------------------------------


class Model:
    """Answers a pass over [N, 1 + T] ids, whose first is the row's number, with the row's log-probs."""

    training = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(self, *, input_ids: Tensor, labels: Tensor, **more: Any) -> SimpleNamespace:
        logits, written = self.logits[input_ids[:, 0]], labels[:, 1:] != -100
        log_probs = logits.log_softmax(-1)
        taken = log_probs.gather(-1, input_ids[:, 1:, None]).squeeze(-1)
        nothing = torch.zeros_like(taken)
        return SimpleNamespace(
            log_probs=torch.where(written, taken, 0.0),
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing > 0,
        )


def rows_of(batch: dict[str, Any], rows: Sequence[int], prefix: str = "") -> dict[str, Tensor]:
    """The batch that a trainer is given of these rows: a prompt of one token, which is the row's number."""
    number = torch.tensor(rows)[:, None]
    ids, mask = (torch.tensor(batch[name])[list(rows)] for name in ("ids", "mask"))
    whole = torch.cat([number, ids], dim=1)
    written = torch.cat([torch.zeros_like(number), mask.long()], dim=1)
    return {
        f"{prefix}input_ids": whole,
        f"{prefix}attention_mask": torch.ones_like(whole),
        f"{prefix}completion_mask": written,
    }


def trainer(batch: dict[str, Any], **settings: Any) -> SimpleNamespace:
    def same(x: Tensor) -> Tensor:
        return x

    return SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same),
        model=torch.nn.Module(),
        ref_model=Model(torch.tensor(batch["teacher_logits"]["reference"])),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        **settings,
    )


DPO = [
    ("sigmoid", 0.0), ("sigmoid_norm", 0.0), ("hinge", 0.0), ("ipo", 0.0), ("robust", 0.0), ("robust", 0.2),
    ("exo_pair", 0.1), ("nca_pair", 0.0), ("bco_pair", 0.0), ("sppo_hard", 0.0), ("apo_zero", 0.0), ("apo_down", 0.0),
]  # fmt: skip


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(("loss", "smoothing"), DPO)
@pytest.mark.parametrize("sft", [0.0, 0.5])
def test_dpo(monkeypatch: pytest.MonkeyPatch, loss: str, smoothing: float, beta: float, sft: float) -> None:
    module = pytest.importorskip("trl.trainer.dpo_trainer")
    batch = given("reference")
    logits = logits_of(batch)
    monkeypatch.setattr(module, "disable_gradient_checkpointing", lambda *_: torch.no_grad())
    own = trainer(
        batch, beta=beta, label_smoothing=smoothing, loss_types=[loss, "sft"], loss_weights=[1.0, sft],
        f_divergence_type="reverse_kl", ld_alpha=None, use_weighting=False,
    )  # fmt: skip
    theirs = module.DPOTrainer._compute_loss(own, Model(logits), rows_of(batch, (0, 3, 1, 5)), False)
    knobs = {"beta": beta, "loss": loss, "label_smoothing": smoothing, "sft_weight": sft}
    out = evaluate("dpo", batch, overrides=knobs)
    # Its logarithms of exo_pair's smoothing are float32.
    agree(out, theirs, logits, rounding=1e-7 if loss == "exo_pair" else 1e-12)
    for name in ("chosen", "rejected", "margins", "accuracies"):
        assert out["metrics"][f"rewards/{name}"] == pytest.approx(own._metrics["train"][f"rewards/{name}"][0])


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.3, 0.6)])
@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("other", [(2, 4), (0, 1, 3, 5)])
def test_kto(
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
    weights: tuple[float, float],
    beta: float,
    other: tuple[int, ...],
) -> None:
    module = pytest.importorskip("trl.trainer.kto_trainer")
    batch = given("reference")
    rows = tuple(i for i in range(6) if i not in other)
    batch["marks"]["mismatched"] = np.isin(np.arange(6), other)[:, None] & np.ones_like(batch["mask"])
    logits = logits_of(batch)
    monkeypatch.setattr(module, "disable_gradient_checkpointing", lambda *_: torch.no_grad())
    own = trainer(
        batch, beta=beta, loss_type=loss, desirable_weight=weights[0], undesirable_weight=weights[1],
        calculate_KL=loss == "kto",
    )  # fmt: skip
    own._compute_kl_logps = partial(module.KTOTrainer._compute_kl_logps, own)
    if loss != "kto":
        rows = tuple(range(6))
    inputs = {**rows_of(batch, rows), "label": torch.tensor(batch["reward"])[list(rows)] > 0.5}
    inputs |= rows_of(batch, other, "KL_") if loss == "kto" else {}
    theirs = module.KTOTrainer._compute_loss(own, Model(logits), inputs, False)
    knobs = {"beta": beta, "loss": loss, "desirable_weight": weights[0], "undesirable_weight": weights[1]}
    out = evaluate("kto", batch, overrides=knobs)
    agree(out, theirs, logits)
    if loss == "kto":
        assert out["metrics"]["kto/kl"] == pytest.approx(own._metrics["train"]["kl"][0])


# --- distributions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("of", ["gkd.gkd_trainer:GKDTrainer", "gold.gold_trainer:GOLDTrainer"])
def test_generalized_jsd(of: str, beta: float, temperature: float) -> None:
    place, _, name = of.partition(":")
    kind = getattr(pytest.importorskip(f"trl.experimental.{place}"), name)
    batch = given("teacher")
    logits = logits_of(batch)
    labels = torch.tensor(np.where(batch["mask"], batch["ids"], -100))
    teacher = torch.tensor(batch["teacher_logits"]["teacher"])
    theirs = kind.generalized_jsd_loss(logits, teacher, labels=labels, beta=beta, temperature=temperature)
    knobs = {"beta": beta, "temperature": temperature, "mean_over": "tokens"}
    agree(evaluate("gkd", batch, overrides=knobs), theirs, logits)


SDPO = [
    *(("full_logits", None, False, alpha) for alpha in (0.0, 0.3, 0.5, 1.0)),
    *(("topk_logits", k, tail, a) for k in (3, 12) for tail in (True, False) for a in (0.0, 0.5, 1.0)),
    ("sampled_token", None, False, 1.0),
]


@pytest.mark.parametrize("clip", [None, 0.8, 2.0])
@pytest.mark.parametrize(("mode", "k", "tail", "alpha"), SDPO)
def test_sdpo(mode: str, k: int | None, tail: bool, alpha: float, clip: float | None) -> None:
    module = pytest.importorskip("trl.experimental.sdpo.sdpo_trainer")
    batch = given("teacher")
    logits, mask = logits_of(batch), torch.tensor(batch["mask"])
    settings = SimpleNamespace(
        distillation_mode=mode, distillation_topk=k, distillation_alpha=alpha, distillation_add_tail=tail,
        distillation_is_clip=clip,
    )  # fmt: skip
    own = SimpleNamespace(
        args=settings,
        accelerator=SimpleNamespace(gather=lambda x: x),
        _log_self_distillation_metric=lambda *_: None,
    )
    read = SimpleNamespace(
        student_logits=logits,
        teacher_logits=torch.tensor(batch["teacher_logits"]["teacher"]),
        completion_ids=torch.tensor(batch["ids"]),
        loss_mask=mask.double(),
    )
    inputs = {"old_per_token_logps": torch.tensor(batch["behavior"])}
    model = SimpleNamespace(training=True)
    theirs = module.SDPOTrainer._compute_self_distillation_loss(own, model, inputs, read)
    sampled = mode == "sampled_token"
    knobs = {
        "alpha": alpha, "student_top_k": k, "tail": "bucket" if tail else "renormalize", "is_clip": clip,
        "mean_over": "rollouts", "loss": "sampled" if sampled else "distribution",
    }  # fmt: skip
    # Of the sampled token it has a surrogate, whose value means nothing.
    agree(evaluate("sdpo", batch, overrides=knobs), theirs, logits, value=not sampled)
