"""Self-E: a flow from scratch whose jumps are scored, where they land, by the flow itself (arXiv 2512.22374)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class SelfE(ImageDiffusionRecipe):
    """One network of two times, x̂ = G(x_t, t, s, c) = x_t − t V(x_t, t, s, c), s ≤ t. Where s = t it learns flow
    matching. Where s < t its x̂ is noised again to time s, x̂_s = (1 − s) x̂ + s ε', and judged there by the network
    itself (no gradient), with its prompt and without: the difference of the posterior means is a classifier's score.

        x_self = sg[x̂ − (G(x̂_s, s, s, ∅) − G(x̂_s, s, s, c))],      λ = (t − s)/((1 − t)(1 − s))
        L = 1/t² |x̂ − sg[x_tar |x₀|/|x_tar|]|²,                    x_tar = x₀ + λ x_self

    With prompt the judge is the running average, without it is the network as it is.
    """

    name = "self-e"
    title = "Self-Evaluation Unlocks Any-Step Text-to-Image Generation"
    source = "https://arxiv.org/abs/2512.22374"
    formula = "|x̂ − sg[renormalized x₀ + λ x_self]|² / t²,  x_self = x̂ − (G(x̂_s, ∅) − G(x̂_s, c))"
    learner = "self-e"
    outputs = {
        "x_hat": "[n, d] the clean prediction G(x_t, t, s, c)",
        "x0": "[n, d] the data",
        "t": "[n] time of x_t",
        "s": "[n] time that the prediction is judged at; s = t: flow matching",
        "G_c": "[n, d] G(x̂_s, s, s, c) of the running average; read where s < t, as all that follow",
        "G_null": "[n, d] G(x̂_s, s, s, ∅)",
        "G_fake": "[n, d] G(x̂_s, s, s, fake c); read from batch fake_from on",
    }

    data: str = "opposite"
    """A world of the plane (opposite, ring, checkerboard), digits, or FILE.npz with arrays x and y (labels)."""
    label_dropout: UnitInterval = 0.1
    """Share of examples whose label is hidden: the network without a prompt."""
    pretrain_steps: NonNegativeInt = 0
    """Batches of flow matching before the method's own (0: none, from scratch)."""
    sampling_steps: Few = 2
    """Denoising steps of the sampler whose samples the headline judges."""
    step_counts: tuple[Few, ...] = (4, 8, 50)
    """Further numbers of denoising steps to sample with when it is evaluated."""
    same_time: UnitInterval = 0.5
    """Share of examples with s = t (1: flow matching alone)."""
    curriculum: NonNegativeInt = 300_000
    """Batches over which τ grows from 0 to 1: s is even in ((1 − τ) t, t)."""
    time_shift: float = 0.5
    """μ: times are e^μ/(e^μ + 1/u − 1), u the logistic function of a normal number. (The paper: 0.5 at 512 tokens of an
    image, 1.15 at 4096.)"""
    normalize_target: bool = True
    """Give x_tar the data's norm. If not, the loss is 1/t² (|x̂ − x₀|² + λ |x̂ − x_self|²)."""
    ema_decay: UnitInterval = 0.9999
    """Decay of the running average, which judges with the prompt, is evaluated and saved."""
    fake_from: NonNegativeInt | None = 550_000
    """Batch from which the network also learns its own predictions, under a prompt that calls them fake (none:
    never)."""
    classifier_share: UnitInterval = 0.9
    """k: from then on the difference is k (G(∅) − G(c)) + (1 − k)(G(fake c) − G(c))."""
    landing: Literal["next", "same"] = "next"
    """The sampler tells the network where a step ends, s = t_next; or s = t, Euler's steps of the flow."""
    guidance: PositiveFloat = 5.0
    """Classifier-free guidance of samples, whose clean prediction keeps the norm that it has without (1: none)."""
    optimization: NetworkOptimization = NetworkOptimization(
        optim="adam",
        lr=3e-4,
        betas=(0.9, 0.95),
        schedule="linear",
        warmup=1000,
        steps=710_000,
        batch_size=1024,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(abs(self.time_shift) <= 50, f"time_shift must lie between -50 and 50, got {self.time_shift}")
        require(
            (self.same_time == 1 and self.guidance == 1) or 0 < self.label_dropout < 1,
            "the judge without a prompt, and guidance other than 1, ask a network that has seen hidden labels: let "
            "label_dropout be above 0 and below 1",
        )

    def tau(self, step: int) -> float:
        """How far s may lie below t, as a share of t."""
        return min(1.0, step / self.curriculum) if self.curriculum else 1.0

    def knows_fakes(self, step: int) -> bool:
        return self.fake_from is not None and step >= self.fake_from

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        x_hat, x0 = outputs["x_hat"], outputs["x0"].detach()
        t, s = outputs["t"][:, None].detach(), outputs["s"][:, None].detach()
        x_self = (x_hat - self.difference(outputs, step)).detach()
        if self.normalize_target:
            # x_tar times (1 − t)(1 − s): λ is infinite at t = 1
            target = (1 - t) * (1 - s) * x0 + (t - s) * x_self
            target = target * x0.norm(dim=1, keepdim=True) / target.norm(dim=1, keepdim=True)
            error = (x_hat - torch.where(s < t, target, x0)).square()
        else:
            ratio = (t - s) / ((1 - t) * (1 - s))
            pulled = torch.where(s < t, ratio * (x_hat - x_self).square(), 0.0)
            error = (x_hat - x0).square() + pulled
        total = (error / t.square()).sum(1).mean()
        if self.knows_fakes(step):
            wrong = (outputs["G_fake"] - x_hat.detach()).square()
            total = total + torch.where(s < t, wrong, 0.0).sum(1).mean()
        return total

    def difference(self, outputs: Outputs, step: int) -> Float[Tensor, "n d"]:
        """What the prompt adds to the posterior mean, with its sign turned."""
        k = self.classifier_share if self.knows_fakes(step) else 1.0
        against = outputs["G_null"] if k == 1 else k * outputs["G_null"] + (1 - k) * outputs["G_fake"]
        return against - outputs["G_c"]
