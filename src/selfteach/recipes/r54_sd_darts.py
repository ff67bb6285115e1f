"""Architecture search whose supernet is taught by earlier states of itself (arXiv 2302.05629)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class SDDarts(NetworkRecipe):
    """DARTS in turns: weights w on the training split, then architecture parameters a on the validation split. What is
    taught there also follows a vote of K earlier states of the supernet, which stand still:

        L = λ₁ CE(y, f(x; w, a)) + λ₂ τ² KL( p_T ‖ softmax(f/τ) ),      p_T = Vote( softmax(g_1/τ), …, softmax(g_K/τ) )

    K = 0, λ₂ = 0, and every step before the first snapshot are plain DARTS. First order: w is taken as it is, not as a
    function of a.
    """

    name = "sd-darts"
    title = "Improving Differentiable Architecture Search via Self-Distillation"
    source = "https://arxiv.org/abs/2302.05629"
    formula = "CE(y, f) + λ KL(vote of K earlier states ‖ f)"
    learner = "darts"
    networks = ("weights", "architecture")
    outputs = {
        "f": "[n, c] the supernet's logits, on a batch of the network's own split",
        "y": "[n] its labels",
        "g": "[K, n, c] the snapshots' logits on the same batch; K = 0: there is none yet",
    }

    data: str = "digits"
    """digits, glyphs, glyphs-color, or FILE.npz with arrays x (images [n, c, h, w]) and y (labels)."""
    optimization: NetworkOptimization = NetworkOptimization(
        optim="sgd", lr=0.025, steps=19_500, batch_size=64, schedule="cosine", momentum=0.9, weight_decay=3e-4,
        max_grad_norm=5.0,
    )  # fmt: skip
    """Of the weights, as DARTS moves them (arXiv 1806.09055); ``batch_size`` images of either split are a step."""
    arch_lr: PositiveFloat = 3e-4
    """Learning rate of the architecture's Adam, which is constant."""
    arch_betas: tuple[UnitInterval, UnitInterval] = (0.5, 0.999)
    """Its moment decays."""
    arch_weight_decay: NonNegativeFloat = 1e-3
    """Its weight decay."""
    teachers: NonNegativeRows = 3
    """K, snapshots that vote (0: plain DARTS). Not read."""
    spacing: PositiveInt = 100
    """Steps between two snapshots. Not read."""
    vote: Literal["soft", "majority"] = "soft"
    """soft: the mean of the teachers' probabilities; majority: the class that most of them name, ties shared. Not
    read."""
    ce_weight: NonNegativeFloat = 1.0
    """λ₁. Not read."""
    distill_weight: NonNegativeFloat = 1.0
    """λ₂. Not read."""
    distill_temperature: PositiveFloat = 1.0
    """τ. Not read."""
    distill_into: Literal["weights", "architecture", "both"] = "weights"
    """Whose step is taught. Not read."""
    channels: PositiveRows = 16
    """Of every node."""
    cells: PositiveRows = 8
    """One behind the other, all of one architecture; the image is halved between two."""
    nodes: PositiveRows = 4
    """Of a cell, beside its input."""
    retrain_steps: NonNegativeInt = 0
    """Steps in which the discretized network is trained anew (0: it keeps what the search has left). Standard in the
    field: some 600 epochs."""
    power_steps: NonNegativeRows = 20
    """Hessian-vector products for λ_max of the training loss (0: it is not measured)."""
    hessian_rows: PositiveRows = 512
    """Training images whose mean loss that is."""

    def __post_init__(self) -> None:
        require(max(self.arch_betas) < 1, f"arch_betas must lie in [0, 1), got {self.arch_betas}")

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        f, g = outputs["f"], outputs["g"]
        loss = self.ce_weight * functional.cross_entropy(f, outputs["y"])
        if not (self.distill_weight and len(g) and self.distill_into in (network, "both")):
            return loss
        tau = self.distill_temperature
        pulled = functional.kl_div((f / tau).log_softmax(-1), self.voted(g), reduction="batchmean")
        return loss + self.distill_weight * tau**2 * pulled

    def voted(self, g: Float[Tensor, "k n c"]) -> Float[Tensor, "n c"]:
        """p_T of the teachers' logits, detached."""
        g = g.detach()
        if self.vote == "soft":
            return (g / self.distill_temperature).softmax(-1).mean(0)
        votes = functional.one_hot(g.argmax(-1), g.shape[-1]).sum(0)
        most = (votes == votes.max(-1, keepdim=True).values).to(g.dtype)
        return most / most.sum(-1, keepdim=True)
