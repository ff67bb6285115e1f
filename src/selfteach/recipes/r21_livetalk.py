"""Distillation of a bidirectional video flow into a causal one of few steps, on its own rollouts (arXiv 2512.23576)."""

from __future__ import annotations

from selfteach.objective.distribution_matching import score_gap, surrogate
from selfteach.recipes.network_kit import *


@settings
class LiveTalk(DiffusionRecipe):
    """Self Forcing under several conditions c (a text, a noisy audio of it). A teacher of whole sequences is distilled
    into a student that makes them block by block, in few steps each: first by regression to where the teacher's own
    trajectories end (x₀), each block at a time of its own, behind the clean blocks before it; then by distribution
    matching (DMD) on x, what the student makes by itself, every block left at the same step, which is drawn:

        L_ode  = mean (G(x_t, t, c) − x₀)²
        f_real = f_c + s_g (f_c − f_u),       g = (f_fake(x_τ) − f_real(x_τ)) / mean |x − f_real|
        L_G    = ½ mean (x − sg[x − g])²                                             so that ∂L_G/∂x = g/numel
        L_fake = mean (v_fake(x_τ) − (ε − x))²                                       x held

    f are clean predictions at x_τ = (1 − τ) x + τ ε, τ one time a sequence: of the teacher with conditions and without,
    and of a network that learns to denoise the student's samples. The knob ``guidance`` is w = s_g + 1 of
    f_u + w (f_c − f_u), which is the same.
    """

    name = "livetalk"
    title = "LiveTalk: Real-Time Multimodal Interactive Video Diffusion via Improved On-Policy Distillation"
    source = "https://arxiv.org/abs/2512.23576"
    formula = "½ |x − sg[x − (f_fake − f_real)/mean|x − f_real|]|²,  f_real = f_c + s_g (f_c − f_u); first |G − x₀|²"
    learner = "livetalk"
    networks = ("ode", "student", "fake")
    outputs = {
        "G": "[n, d] the student's clean predictions at states of the teacher's trajectories (loss ode)",
        "x0": "[n, d] where those trajectories end",
        "x": "[n, d] the student's samples",
        "f_c": "[n, d] the clean samples that the teacher sees in their noised ones x_τ",
        "f_u": "[n, d] the same without conditions",
        "f_text": "[n, d] the same without the audio; read with two numbers of guidance",
        "f_fake": "[n, d] and those that the network of the student's own samples sees",
        "v_fake": "[n, d] that network's velocity at x_τ (loss fake)",
        "eps": "[n, d] the noise that is in x_τ",
    }

    optimization: NetworkOptimization = NetworkOptimization(
        lr=4e-6, betas=(0.0, 0.999), steps=1000, batch_size=64
    )
    data: str = "walk-speeds"
    """walk-speeds (a point in the plane is a frame; the condition is how fast it walks), or what has labels: a world of
    the plane, digits, or FILE.npz with arrays x and y."""
    frames: Few = 21
    """Frames of a sequence; each has as many entries as any other."""
    block_frames: Few = 3
    """Frames that are made together, behind the block before."""
    label_dropout: UnitInterval = 0.1
    """Share of the pretraining's examples that show no condition, and share that show no audio."""
    guidance: tuple[PositiveFloat, ...] = (6.0,)
    """w of the teacher's classifier-free guidance f_u + w (f_c − f_u) (1: none): s_g + 1, the paper's s_g = 5. Two
    numbers: text's and audio's apart, f_u + w (f_text − f_u) + s_a (f_c − f_text)."""
    ode_guidance: tuple[PositiveFloat, ...] | None = None
    """The same of the trajectories that the student regresses to (none: as guidance)."""
    condition_noise: UnitInterval = 0.0
    """Share of the conditions of both stages of distillation whose audio belongs to another label."""
    schedule_steps: Few = 4
    """Times at which the student denoises; fewer steps skip within them."""
    timestep_shift: PositiveFloat = 5.0
    """Times t are s t/(1 + (s − 1) t) of even ones: the student's, the teacher's, and those that its samples are noised
    to."""
    ode_pairs: PositiveRows = 10_000
    """Trajectories of the teacher that are stored; the paper's number is not known to us."""
    ode_steps: NonNegativeInt = 20_000
    """Batches of regression to the ends of trajectories (0: none)."""
    ode_lr: PositiveFloat = 4e-5
    """Its learning rate; it is otherwise optimized as the student is later."""
    rollouts: Literal["on-policy", "on-policy-last", "teacher-forced"] = "on-policy"
    """What distribution matching sees of the student: what it makes behind its own blocks, all of them left at a step
    that is drawn, or at the last one (ours); or its predictions at the teacher's states, behind the teacher's blocks
    (compared)."""
    student_every: PositiveInt = 5
    """Of so many steps one moves the student; each moves the network of its samples."""
    fake_lr: PositiveFloat = 8e-7
    """Learning rate of the network of the student's samples."""
    ema_decay: UnitInterval = 0.99
    """Decay of the student's running average, which is evaluated and saved."""
    ema_from: NonNegativeInt = 200
    """Step of distillation from which it averages; before, it is the student."""
    sampling_steps: Few = 4
    """Steps a block that the headline judges."""
    step_counts: tuple[Few, ...] = (1, 2, 4)
    """Steps a block that are evaluated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = max([*self.step_counts, self.sampling_steps])
        require(
            most <= self.schedule_steps,
            f"sampling_steps and step_counts skip within a schedule of {self.schedule_steps} steps, got {most}",
        )
        scales = [one for one in (self.guidance, self.ode_guidance) if one is not None]
        require(
            all(len(one) in (1, 2) for one in scales),
            "guidance and ode_guidance are one number, or two, of text and audio",
        )
        guided = any(one != (1.0,) for one in scales)
        require(
            self.label_dropout <= 0.5 and (self.label_dropout > 0 or not guided),
            f"label_dropout must lie between 0 and 0.5, above 0 with guidance, got {self.label_dropout}: so many "
            "examples show no condition, and as many no audio",
        )
        require(
            self.frames % self.block_frames == 0,
            f"frames must be a multiple of block_frames, {self.block_frames}, got {self.frames}",
        )
        require(self.pretrain_steps > 0, "pretrain_steps is 0: they make the teacher")
        require(
            self.optimization.steps >= self.student_every,
            f"steps {self.optimization.steps} is below student_every {self.student_every}: the student never moves",
        )

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        match network:
            case "ode":
                return (outputs["G"] - outputs["x0"].detach()).square().mean()
            case "fake":
                return flow.matching_loss(outputs["v_fake"], outputs["x"].detach(), outputs["eps"].detach())
        x, real = outputs["x"], self.guided(outputs)
        gradient = score_gap(x.detach(), real.detach(), outputs["f_fake"].detach())
        return surrogate(x, gradient).mean()

    def guided(self, outputs: Outputs, scales: tuple[float, ...] | None = None) -> Float[Tensor, "n d"]:
        """f_real, of predictions with all conditions, with the text alone, and with none; ``scales``: other ones."""
        told, without = outputs["f_c"], outputs["f_u"]
        scale, *audio = scales or self.guidance
        if audio:
            text = outputs["f_text"]
            return flow.guided(text, without, scale) + audio[0] * (told - text)
        return told if scale == 1 else flow.guided(told, without, scale)
