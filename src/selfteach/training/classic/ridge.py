"""Kernel ridge regression that is fitted again and again to its own predictions (arXiv 2102.13088)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfteach.checks import require
from selfteach.recipes.r35_kernel_sd import KernelSD
from selfteach.task.arrays import Rows, load_arrays
from selfteach.training.learner import Numbers, Sample, Stage, Update
from selfteach.training.network_learner import NetworkLearner, write_weights
from selfteach.training.trainer import Settings

MOST = 5000
"""Rows to fit: a kernel matrix of so many takes 200 MB, and its decomposition minutes."""


@dataclass(frozen=True)
class Fit:
    """A step's batch: ``targets`` [n, c] is α · truth + (1 − α) · ``before`` [n, c]."""

    alpha: float
    before: Float[Tensor, "n c"]
    targets: Float[Tensor, "n c"]


@dataclass(frozen=True)
class Ridge:
    """What a fit is: ``coefficients`` [n, c], and ``basis`` [n]; see the learner."""

    coefficients: Float[Tensor, "n c"]
    basis: Float[Tensor, "n"]


class RidgeLearner(NetworkLearner[KernelSD]):
    """float64, on the CPU. ``basis``: the diagonal of B, by which the present fit is V B Vᵀ y in the eigenbasis V of K
    (the paper's section 3)."""

    unit, headline, better = "fits", "held-out mean squared error", "lower"

    def __init__(self, recipe: KernelSD, settings: Settings) -> None:
        super().__init__(recipe, settings)
        data = load_arrays(recipe.data, settings.seed, least=2)
        require(
            len(data.train) <= MOST,
            f"data {recipe.data} has {len(data.train)} rows to fit, and a kernel matrix holds {MOST}: give fewer",
        )
        require(
            recipe.alpha_rule == "constant" or len(data.valid) > 0,
            f"alpha_rule optimal chooses alpha on rows held out for it, and data {recipe.data} has none: take constant",
        )
        self.classes = data.classes
        self.x, self.y = self.tensors(data.train)
        self.valid, self.test = self.tensors(data.valid), self.tensors(data.test)
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(self.kernel(self.x, self.x))
        self.stages = [Stage("distill", recipe.steps)]
        self.model = Ridge(torch.zeros_like(self.y), torch.zeros(len(self.y), dtype=self.y.dtype))
        self.previous = Previous(self)

    def tensors(self, rows: Rows) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c"]]:
        """Inputs laid flat; labels as columns of 0 and 1."""
        y = np.eye(self.classes)[rows.y] if self.classes else rows.y
        return torch.from_numpy(rows.x.reshape(len(rows.x), math.prod(rows.x.shape[1:]))), torch.from_numpy(y)

    def kernel(self, a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
        return torch.exp(-self.recipe.gamma * torch.cdist(a, b).square())

    def modules(self) -> Mapping[str, nn.Module]:
        return {}  # which are placed on an accelerator, and not every one has float64: the fit is part of the state

    def roles(self, wrapped: Mapping[str, nn.Module]) -> Mapping[str, Previous]:
        return {"previous": self.previous}

    def spent(self, batch: Fit) -> int:
        return 1

    # --- a step ---------------------------------------------------------------------------------------------------

    def collect(self, step: int) -> Fit:
        before = self.previous.predictions
        alpha = self.recipe.alpha if self.recipe.alpha_rule == "constant" else self.optimal(before)
        return Fit(alpha, before, alpha * self.y + (1 - alpha) * before)

    def updates(self, batch: Fit) -> Iterator[Update]:
        yield Update((), lambda: self.fit(batch))

    def fit(self, batch: Fit) -> Numbers:
        coefficients = self.solved(batch.targets)
        shrunk = self.eigenvalues / (self.eigenvalues + self.recipe.ridge_lambda)
        basis = shrunk * ((1 - batch.alpha) * self.previous.basis + batch.alpha)
        self.model = Ridge(coefficients, basis)
        f = self.predict(self.x)
        outputs = {"f": f, "y": self.y, "t": batch.before, "norm": (coefficients * f).sum()}
        loss = replace(self.recipe, alpha=batch.alpha).loss("network", outputs, 0)
        return {"loss": float(loss), "alpha": batch.alpha}

    def solved(self, targets: Float[Tensor, "n c"], ridge: float | None = None) -> Float[Tensor, "n c"]:
        """(K + λI)⁻¹ targets."""
        scale = self.eigenvalues + (self.recipe.ridge_lambda if ridge is None else ridge)
        found: Tensor = self.eigenvectors @ ((self.eigenvectors.T @ targets) / scale[:, None])
        return found

    def optimal(self, before: Float[Tensor, "n c"]) -> float:
        """The α at which the next fit is closest to the rows held out for it: the fit is affine in α, between those to
        the truth (u) and to the fit before (h), so that α = ⟨y − h, u − h⟩ / |u − h|²; cut to [0, 1]."""
        x, y = self.valid
        u, h = (self.kernel(x, self.x) @ self.solved(one) for one in (self.y, before))
        apart = (u - h).square().sum()
        best = float(((y - h) * (u - h)).sum() / apart) if apart > 0 else 1.0
        return min(1.0, max(0.0, best))

    def state(self) -> dict[str, Any]:
        return asdict(self.model)

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model = Ridge(**state)

    # --- what is seen ---------------------------------------------------------------------------------------------

    def predict(
        self, x: Float[Tensor, "m d"], coefficients: Float[Tensor, "n c"] | None = None
    ) -> Float[Tensor, "m c"]:
        return self.kernel(x, self.x) @ (self.model.coefficients if coefficients is None else coefficients)

    def evaluate(self, phase: str) -> Mapping[str, float]:
        found = {f"eval/{name}": value for name, value in self.scores(self.model.coefficients).items()}
        if self.recipe.alpha_rule == "constant":
            found["eval/mse_limit"] = self.scores(self.limit())["mse"]
        return {"eval/headline": found["eval/mse"], **found}

    def scores(self, coefficients: Float[Tensor, "n c"]) -> dict[str, float]:
        x, y = self.test
        predicted = self.predict(x, coefficients)
        found = {"mse": float((predicted - y).square().mean())}
        if self.classes:
            found["accuracy"] = float((predicted.argmax(1) == y.argmax(1)).double().mean())
        return found

    def limit(self) -> Float[Tensor, "n c"]:
        """Coefficients after infinitely many steps: those of the ridge of λ/α, or 0."""
        alpha = self.recipe.alpha
        return self.solved(self.y, self.recipe.ridge_lambda / alpha) if alpha else torch.zeros_like(self.y)

    def metrics(self, batch: Fit, done: Any) -> Mapping[str, float]:
        """``basis/spread``: how many times more the present fit keeps of the direction it keeps most of than of the one
        at the middle, in powers of ten (the paper: it grows without bound for α = 0, and no further for α > 0). Left
        out where nothing is left of the one at the middle that float64 holds."""
        kept = self.model.basis.sort().values
        middle = float(kept[len(kept) // 2])
        return {"basis/spread": math.log10(float(kept[-1])) - math.log10(middle)} if middle > 0 else {}

    def samples(self, batch: Fit | None, phase: str) -> list[Sample]:
        """The curve with its data, where there is one input."""
        if self.x.shape[1] != 1 or self.y.shape[1] != 1:
            return []
        clouds = {"data": (self.x, self.y), "fit": (self.test[0], self.predict(self.test[0]))}
        return [Sample("points", {"points": {k: torch.cat(v, 1).tolist() for k, v in clouds.items()}}, "fit")]

    def export(self, folder: Path) -> None:
        write_weights({"x": self.x, "coefficients": self.model.coefficients}, folder, "ridge")


class Previous:
    """The teacher: the fit before, on the training inputs, and its basis; before the first fit, the truth."""

    def __init__(self, learner: RidgeLearner) -> None:
        self.learner, self.predictions = learner, learner.y
        self.basis = torch.ones(len(learner.x), dtype=torch.float64)

    def after_step(self, moved: Collection[str]) -> None: ...

    def after_batch(self) -> None:
        self.predictions = self.learner.predict(self.learner.x)
        self.basis = self.learner.model.basis

    def state(self) -> dict[str, Any]:
        return {"predictions": self.predictions, "basis": self.basis}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.predictions, self.basis = state["predictions"], state["basis"]
