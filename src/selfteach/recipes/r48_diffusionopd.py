"""DiffusionOPD: one specialist a task, all distilled into one student along its own denoising (arXiv 2605.15055)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class DiffusionOPD(ImageDiffusionRecipe):
    """A denoising step is a Gaussian whose variance does not depend on the weights, so the reverse KL of student and
    teacher at a state x_t that the student came to is a squared distance of means, without any sampling noise:

        L = mean over stored states of |μ_θ(x_t) − μ_T(x_t)|² / (2 s_t²),      ½ |μ_θ − μ_T|² where s_t = 0 (ODE)

    with μ, s of the sampler's transition. The state is no function of the weights here, the teacher's mean is constant.
    Each label is a task with a teacher of its own; a batch holds rollouts of every task (round robin).
    """

    name = "diffusionopd"
    title = "DiffusionOPD: A Unified Perspective of On-Policy Distillation in Diffusion Models"
    source = "https://arxiv.org/abs/2605.15055"
    formula = "|μ_student − μ_teacher|² / (2 s²) at the student's own denoising states"
    learner = "diffusionopd"
    outputs = {
        "mu": "[n, d] the student's mean of the next state",
        "mu_T": "[n, d] the teacher's",
        "s": "[n] standard deviation of the transition, 0 of an ODE's",
        "g": "[n] the SDE's diffusion coefficient (s = g √(t − t')), 0 of other samplers",
        "x_next": "[n, d] the state that was sampled",
    }

    data: str = "opposite"
    """A world of the plane (opposite), digits, or FILE.npz with arrays x and y: each label is a task. The base model is
    pretrained on all data under every label."""
    label_dropout: UnitInterval = 0.1
    """Share of the pretraining's and the specialists' examples whose label is hidden, for guidance."""
    step_counts: tuple[Few, ...] = (40,)
    """Further numbers of denoising steps to sample with when it is evaluated."""
    specialist_steps: PositiveInt = 600
    """Batches that each teacher is fine-tuned on: its own task's data, under its own label. (The paper's are made by
    reinforcement learning.)"""
    specialist_lr: PositiveFloat = 1e-3
    """Their learning rate (adam, a cosine to 0)."""
    sampler: Literal["ode", "sde", "cps"] = "ode"
    """How rollouts step: along the flow; by its SDE; by the step that keeps the noise level's coefficients."""
    noise_level: PositiveUnit = 0.7
    """η of sde and cps."""
    divide_by: Literal["variance", "g2", "none"] = "variance"
    """What squared distances of means are divided by, twice: s², the KL; g², which the released code takes and which
    weighs a step of the SDE by its length; nothing. Nothing in any case where s = 0."""
    dimensions: Literal["mean", "sum"] = "mean"
    """Over the dimensions of a state: their mean, or their sum, the KL itself."""
    estimator: Literal["closed-form", "score-function"] = "closed-form"
    """The divergence; or sg[log p_θ/p_T](x') log p_θ(x') at the sampled next state x', whose gradient has the same
    mean."""
    order: Literal["round-robin", "cascade"] = "round-robin"
    """Every task in every batch; or one task after the other."""
    states: Literal["student", "teacher"] = "student"
    """Whose rollouts the states are from: on-policy, or off-policy."""
    timestep_fraction: PositiveUnit = 0.99
    """First share of a rollout's steps that is trained (rounded down, one at least)."""
    guidance: PositiveFloat = 4.5
    """The student's classifier-free guidance (1: none)."""
    teacher_guidance: tuple[PositiveFloat, ...] = (4.5, 4.5, 1.0)
    """The teachers', folded into their means; further ones have the last."""
    ema_decay: UnitInterval = 0.9
    """Decay of the student's running average, which is evaluated and saved."""
    optimization: NetworkOptimization = NetworkOptimization(
        optim="adamw", lr=1e-4, steps=300, batch_size=3, max_grad_norm=1.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.teacher_guidance) > 0, "teacher_guidance has no number: 1 is none")
        require(
            {self.guidance, *self.teacher_guidance} == {1.0} or 0 < self.label_dropout < 1,
            "guidance other than 1 asks a network without a label: let label_dropout be above 0 and below 1",
        )
        require(
            self.estimator == "closed-form" or (self.sampler != "ode" and self.states == "student"),
            "estimator score-function is of states that the student sampled: take sampler sde or cps, states student",
        )
        require(
            self.estimator == "closed-form" or self.divide_by == "variance",
            "divide_by is the closed form's: with estimator score-function leave it out",
        )
        require(
            self.divide_by != "g2" or self.sampler == "sde", "divide_by g2 is the SDE's: take sampler sde"
        )
        require(
            self.sampler == "ode" or self.sampling_steps > 1,
            f"sampler {self.sampler} wants 2 denoising steps or more",
        )
        require(
            self.sampler != "cps" or self.trained_steps < self.sampling_steps,
            "sampler cps draws nothing in its last step, which has no KL: lower timestep_fraction",
        )

    @property
    def trained_steps(self) -> int:
        """Of a rollout, from the first."""
        return max(1, int(self.timestep_fraction * self.sampling_steps))

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        mu, mu_T = outputs["mu"], outputs["mu_T"].detach()
        dims = mu.shape[1] if self.dimensions == "mean" else 1
        if self.estimator == "score-function":
            x, s = outputs["x_next"].detach(), outputs["s"].detach()
            own = transition.gaussian_log_prob(x, mu, s)
            ratio = (own - transition.gaussian_log_prob(x, mu_T, s)).detach()
            return (ratio * own).mean() / dims
        return (transition.mean_gap(mu, mu_T) / self.divisor(outputs)).mean() / dims

    def divisor(self, outputs: Outputs) -> Float[Tensor, "n"]:
        by = outputs["g"] if self.divide_by == "g2" else outputs["s"]
        one = torch.ones_like(by)
        return one if self.divide_by == "none" else torch.where(by > 0, by.square(), one).detach()
