"""Distillation of a flow's few steps from one step more, against a discriminator (arXiv 2511.01419)."""

from __future__ import annotations

from selfteach.objective.distribution_matching import score_gap, surrogate
from selfteach.recipes.network_kit import *


@settings
class ASD(DiffusionRecipe):
    """One generator serves 1 … N steps a frame: its samples of n steps G^n should be told from those of n + 1, without
    gradient, by no discriminator; a multi-step teacher's score anchors both (DMD).

    n is drawn each iteration. Ψ noises a sample, x_t = (1 − t) x + t ε, anew for each branch; d_n = D^n(Ψ(G^n(z₁))),
    d_more = D^n(Ψ(G^{n+1}(z₂))), z₁ and z₂ apart; D^n is the n-th of a discriminator's outputs:

        L_D = mean −log σ(d_more − d_n) + γ/2 mean |∇D|² (at either branch's samples)
        L_G = L_DMD + α mean −log σ(d_n − d_more)
        ∂L_DMD/∂x = −(s_real − s_fake)(x_t) · t²/(1 − t) / mean |x − x0_real| = (x0_fake − x0_real) / mean |x − x0_real|
        L_fake = mean |ε_φ(x_t) − ε|²                                    on samples of the student

    A score of x_t is ((1 − t) x0 − x_t)/t², x0 what its network takes the clean sample to be.
    """

    name = "asd"
    title = "Towards One-step Causal Video Generation via Adversarial Self-Distillation"
    source = "https://arxiv.org/abs/2511.01419"
    formula = "L_DMD − α log σ(D^n(G^n) − D^n(G^{n+1})); D: −log σ(D^n(G^{n+1}) − D^n(G^n)) + γ/2 (R1 + R2)"
    learner = "asd"
    networks = ("student", "fake", "discriminator")
    outputs = {
        "x": "[n, d] the student's samples G^n(z₁)",
        "x0_real": "[n, d] the clean samples that the teacher sees in their noised ones",
        "x0_fake": "[n, d] and that the network of the student's own scores sees",
        "t": "[n] times of the noised samples that the two scores are asked about, in (0, 1)",
        "d_n": "[n] scores D^n(Ψ(G^n(z₁)))",
        "d_more": "[n] scores D^n(Ψ(G^{n+1}(z₂)))",
        "slope_n": "[n, d] ∇D^n at Ψ(G^n(z₁))",
        "slope_more": "[n, d] ∇D^n at Ψ(G^{n+1}(z₂))",
        "eps_fake": "[n, d] the noise that the network of the student's scores sees in noised samples",
        "eps": "[n, d] the noise that is in them",
    }

    optimization: NetworkOptimization = NetworkOptimization(lr=1e-4, betas=(0.0, 0.999), steps=1000)
    data: str = "walk"
    """walk (a point in the plane is a frame), or what is of one label: a world of the plane, or FILE.npz with arrays
    x and y."""
    frames: Few = 8
    """Frames of a sequence; each has as many entries as any other."""
    schedule_steps: Few = 4
    """Times of the schedule that fewer steps skip within."""
    student_every: PositiveInt = 5
    """Of so many steps one moves the student, the others the two networks that judge it."""
    fake_lr: PositiveFloat = 1e-3
    """Learning rate of the network of the student's scores."""
    discriminator_lr: PositiveFloat = 1e-3
    """Learning rate of the discriminator."""
    sampling_steps: Few = 1
    """Steps a frame that the headline judges."""
    step_counts: tuple[Few, ...] = (1, 2, 4)
    """Steps a frame that are evaluated, alike for all frames and with the whole schedule for the first one."""
    adversarial_weight: NonNegativeFloat = 1.0
    """α; the paper's value is not known to us."""
    dmd_weight: NonNegativeFloat = 1.0
    """Weight of L_DMD (0: self-distillation alone)."""
    dmd_scale: Literal["distance", "score"] = "distance"
    """What the scores' difference is multiplied by: t²/(1 − t), then divided by the mean distance of sample and
    teacher, as in DMD (arXiv 2311.18828); or nothing."""
    fake_loss: Literal["noise", "velocity"] = "noise"
    """What the network of the student's scores errs in: the noise, or the velocity, which is that divided by 1 − t."""
    penalty: NonNegativeFloat = 1.0
    """γ of R1 and R2; the paper's value is not known to us."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = max([*self.step_counts, self.sampling_steps])
        require(
            most <= self.schedule_steps,
            f"sampling_steps and step_counts skip within a schedule of {self.schedule_steps} steps, got {most}",
        )
        require(
            self.dmd_weight + self.adversarial_weight > 0,
            "dmd_weight and adversarial_weight are both 0: the student learns from nothing",
        )
        require(self.schedule_steps > 1, "schedule_steps must be 2 or more: n steps learn from n + 1")
        require(
            self.optimization.steps >= self.student_every,
            f"steps {self.optimization.steps} is below student_every {self.student_every}: the student never learns",
        )
        require(self.student_every > 1, "student_every must be 2 or more: the other steps are its judges'")

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        match network:
            case "fake":
                error = (outputs["eps_fake"] - outputs["eps"].detach()).square().sum(-1)
                late = (1 - outputs["t"].detach()).square() if self.fake_loss == "velocity" else 1.0
                return (error / late).mean()
            case "discriminator":
                slopes = gradient_penalty(outputs["slope_more"]) + gradient_penalty(outputs["slope_n"])
                return bradley_terry(outputs["d_more"], outputs["d_n"]) + self.penalty * slopes
        adversarial = bradley_terry(outputs["d_n"], outputs["d_more"].detach())
        return self.dmd_weight * self.matching(outputs) + self.adversarial_weight * adversarial

    def matching(self, outputs: Outputs) -> Float[Tensor, ""]:
        """A number whose gradient in ``x`` is DMD's."""
        x = outputs["x"]
        real, fake, t = (outputs[name].detach() for name in ("x0_real", "x0_fake", "t"))
        if self.dmd_scale == "score":
            gradient = (fake - real) * ((1 - t) / t.square())[:, None]
        else:
            gradient = score_gap(x.detach(), real, fake)
        return surrogate(x, gradient).sum(-1).mean()
