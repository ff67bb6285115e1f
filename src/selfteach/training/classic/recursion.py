"""Generations that are fitted one after the other, each to a meta-teacher (arXiv 2601.13100)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from selfteach.recipes.r60_recursive_meta import RecursiveMeta
from selfteach.training.classic.bases import TABLE, base_of, fit, loss_of, of_teachers
from selfteach.training.classic.softmax import log_probs
from selfteach.training.learner import Numbers, Sample, Stage, Update
from selfteach.training.network_learner import NetworkLearner, write_weights
from selfteach.training.trainer import Settings

Values = Float[Tensor, "m"]
"""One number for each input on which generations are measured."""


@dataclass(frozen=True)
class Generation:
    """``m``: what it is fitted to, on the training inputs; ``aim``: the meta-teacher itself, where it is measured."""

    step: int
    m: Float[Tensor, "n c"]
    aim: Float[Tensor, "m c"]


class RecursionLearner(NetworkLearner[RecursiveMeta]):
    """Softmax regression in float64, on the CPU; of data table a distribution for each context, whose fit is exact.

    ``kept``: Π (1 − a) over the generations so far. ``tv_bound``: what TV(q, p) cannot exceed at each input, where the
    meta-teacher is an arithmetic mean: from generation to generation (1 − a) times it, and what the fit has missed.
    """

    unit, headline, better = "generations", "KL(base ‖ student), nats", "lower"

    def __init__(self, recipe: RecursiveMeta, settings: Settings) -> None:
        super().__init__(recipe, settings)
        self.stages = [Stage("recur", recipe.steps)]
        self.data = base_of(recipe, settings.seed)
        self.log_q, self.log_q_test = (
            recipe.base(of_teachers(self.data, x)) for x in (self.data.x, self.data.test)
        )
        self.weight = self.data.first
        if recipe.start == "base":
            self.weight = fit(recipe, self.data.x, self.log_q.exp(), self.data.first)
        self.first = self.distances()
        self.kept, self.tv_bound = 1.0, self.first["tv"]

    def modules(self) -> Mapping[str, nn.Module]:
        return {}  # which are placed on an accelerator, and not every one has float64: the weight is part of the state

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight, "kept": self.kept, "tv_bound": self.tv_bound}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.weight, self.kept, self.tv_bound = state["weight"], state["kept"], state["tv_bound"]

    def spent(self, batch: Generation) -> int:
        return 1

    # --- a generation ---------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Generation:
        before, before_test = (log_probs(x, self.weight) for x in (self.data.x, self.data.test))
        m = self.recipe.meta_teacher(before, self.log_q, step).exp()
        aim = self.recipe.meta_teacher(before_test, self.log_q_test, step)
        return Generation(step, self.drawn(m, step) if self.recipe.samples else m, aim)

    def drawn(self, m: Float[Tensor, "n c"], step: int) -> Float[Tensor, "n c"]:
        """Shares of labels that are drawn from ``m``, smoothed."""
        random = np.random.default_rng([self.settings.seed, step])
        counts = torch.from_numpy(random.multinomial(self.recipe.samples, m.numpy())).double()
        shares = counts + self.recipe.smoothing
        return shares / shares.sum(-1, keepdim=True)

    def updates(self, batch: Generation) -> Iterator[Update]:
        yield Update((), partial(self.next, batch))

    def next(self, batch: Generation) -> Numbers:
        self.weight = fit(self.recipe, self.data.x, batch.m, self.weight)
        norm = self.weight.square().sum() if self.recipe.data != TABLE else torch.zeros(())
        loss = loss_of(self.recipe, batch.m, log_probs(self.data.x, self.weight), norm)
        missed = total_variation(batch.aim, log_probs(self.data.test, self.weight))
        anchor = self.recipe.anchor_at(batch.step)
        self.kept *= 1 - anchor
        self.tv_bound = (1 - anchor) * self.tv_bound + missed
        return {"loss": float(loss), "anchor": anchor, "fit/tv": float(missed.mean())}

    # --- what is seen ---------------------------------------------------------------------------------------------

    def distances(self) -> dict[str, Values]:
        """From the base teachers' pool q to the student p."""
        p, q = log_probs(self.data.test, self.weight), self.log_q_test
        return {"kl": kl(q, p), "kl_reverse": kl(p, q), "tv": total_variation(p, q)}

    def bounds(self) -> dict[str, Values]:
        """What is proven of them, by name. Those of KL hold for generations that are fitted exactly; KL(p ‖ q) and TV
        are bounded by convexity, which the geometric mean does not have in them."""
        exact = self.recipe.data == TABLE and not self.recipe.samples
        found = {"kl": self.kept * self.first["kl"]} if exact else {}
        if self.recipe.operator == "geometric":
            return found
        return (
            found
            | ({"kl_reverse": self.kept * self.first["kl_reverse"]} if exact else {})
            | {"tv": self.tv_bound}
        )

    def evaluate(self, phase: str) -> Mapping[str, float]:
        distances, bounds = self.distances(), self.bounds()
        found = {f"eval/{name}": float(value.mean()) for name, value in distances.items()}
        found |= {f"eval/{name}_bound": float(value.mean()) for name, value in bounds.items()}
        if bounds:
            found["eval/violation"] = max(float((distances[name] - bounds[name]).max()) for name in bounds)
        if self.data.labels is not None:
            found["eval/accuracy"] = accuracy(log_probs(self.data.test, self.weight), self.data.labels)
            found["eval/base_accuracy"] = accuracy(self.log_q_test, self.data.labels)
        return {"eval/headline": found["eval/kl"], **found}

    def samples(self, batch: Generation | None, phase: str) -> list[Sample]:
        """The first input's distributions: label and probability."""
        clouds = {"base": self.log_q_test, "student": log_probs(self.data.test, self.weight)}
        shown = {name: [[i, p] for i, p in enumerate(one[0].exp().tolist())] for name, one in clouds.items()}
        return [Sample("points", {"points": shown}, "first input")]

    def export(self, folder: Path) -> None:
        """``weight`` [d, c] of the student and ``teachers`` [k, d, c]; of data table a row for each context."""
        write_weights({"weight": self.weight, "teachers": self.data.teachers}, folder, "softmax")


def kl(log_p: Float[Tensor, "m c"], log_q: Float[Tensor, "m c"]) -> Values:
    """KL(p ‖ q) in nats; rounding makes none of it negative."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


def total_variation(log_p: Float[Tensor, "m c"], log_q: Float[Tensor, "m c"]) -> Values:
    """½ Σ |p − q|."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def accuracy(log_p: Float[Tensor, "m c"], labels: Int[Tensor, "m"]) -> float:
    return float(log_p.argmax(-1).eq(labels).double().mean())
