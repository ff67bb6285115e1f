"""Self-distillation of kernel ridge regression, in closed form (arXiv 2102.13088)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class KernelSD(NetworkRecipe):
    """Each step a ridge is fitted anew, to the truth y and to what the fit before, t, predicts on the training inputs:

        L = α/2 |f(X) − y|² + (1 − α)/2 |f(X) − t|² + λ/2 |f|²,      f = k(·, X)(K + λI)⁻¹ (α y + (1 − α) t)

    The first step has t = y. Without the truth (α = 0) f goes to 0; with it to the ridge of λ/α.
    """

    name = "kernel-sd"
    title = "Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization Imposed by Self-Distillation"
    source = "https://arxiv.org/abs/2102.13088"
    formula = "α/2 |f − y|² + (1 − α)/2 |f − f_before|² + λ/2 |f|²"
    learner = "ridge"
    outputs = {
        "f": "[n, c] the fit on the training inputs",
        "y": "[n, c] the truth",
        "t": "[n, c] the fit before, on the same inputs",
        "norm": "[] |f|² in the kernel's space",
    }

    data: str = "sine"
    """sine (the paper's), diabetes, digits, or FILE.npz with arrays x and y."""
    steps: PositiveInt = 6
    """Fits, one after the other."""
    alpha: UnitInterval = 0.35
    """Weight of the truth; of the fit before it is 1 − alpha."""
    alpha_rule: Literal["constant", "optimal"] = "constant"
    """alpha as it is; or at each step the one that fits data held out for that best, cut to [0, 1]."""
    ridge_lambda: PositiveFloat = 0.2
    """λ, the weight of the fit's norm."""
    gamma: PositiveFloat = 80.0
    """Of the kernel exp(−γ |x − x′|²)."""

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        f, y, t = outputs["f"], outputs["y"], outputs["t"].detach()
        fitting = self.alpha * (f - y).square().sum() + (1 - self.alpha) * (f - t).square().sum()
        return (fitting + self.ridge_lambda * outputs["norm"]) / 2
