"""Leaps: weights go further along the way that they went, as long as validation gets better (EffOPD)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from selfteach.control.hook import Named
from selfteach.errors import UserError
from selfteach.settings import PositiveInt, PositiveRows, settings

NORM = "norm"
"""Part of the name of what scales and shifts activations, wherever it stands."""


@settings
class Leaps:
    """After steps 1, 2, 4, 8 … try W_k + 2j (W_k − B) for j = 1 … ``trials``, and keep the last that was better.

    "Learning to Foresee" (arXiv 2605.11739). W_k are the weights after step k, B the anchor: the weights that the last
    such step left, at first those before step 1. A candidate is accepted if its validation is above that of the one
    before (strictly); at the first that is not, the one before is put back bit for bit, and becomes the anchor. Only
    tensors are moved whose name has one of ``parts`` (and not "norm"). The optimizer is left as it is.
    """

    trials: PositiveInt = 5
    """Candidates of a step at most."""
    problems: PositiveRows = 64
    """Problems that each is validated on."""
    parts: tuple[str, ...] = ("attn", "attention", "mlp")
    """What the names of modules that leap have in them."""

    def start(self, seed: int, weights: Named) -> Leaping:
        """UserError if no tensor's name has one of the ``parts``."""
        chosen = [name for name in weights if any(part in name for part in self.parts) and NORM not in name]
        if not chosen:
            there = min(weights, default="none")
            raise UserError(
                f"no trained weight has one of {', '.join(self.parts)} in its name: there is {there}"
            )
        return Leaping(self.trials, {name: weights[name].detach().clone() for name in chosen})


class Leaping:
    """``anchor``: B, of the tensors that leap."""

    def __init__(self, trials: int, anchor: dict[str, Shaped[Tensor, "..."]]) -> None:
        self.trials, self.anchor = trials, anchor
        self.seen: dict[str, float] = {}

    @torch.no_grad()
    def after_step(self, step: int, weights: Named, evaluate: Callable[[], float]) -> None:
        self.seen = {}
        if step & (step - 1):
            return
        here = {name: weights[name].detach().clone() for name in self.anchor}

        def go(j: int) -> None:
            for name, start in here.items():
                weights[name].copy_(start + 2 * j * (start - self.anchor[name]) if j else start)

        first = best = evaluate()
        accepted = 0
        for j in range(1, self.trials + 1):
            go(j)
            found = evaluate()
            if not found > best:
                go(accepted)
                break
            best, accepted = found, j
        self.anchor = {name: weights[name].detach().clone() for name in self.anchor}
        self.seen = {"accepted": accepted, "before": first, "after": best}

    def metrics(self) -> Mapping[str, float]:
        return self.seen

    def state(self) -> dict[str, Any]:
        return {"anchor": self.anchor, "seen": self.seen}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.anchor = {name: state["anchor"][name].to(own.device) for name, own in self.anchor.items()}
        self.seen = dict(state["seen"])
