"""Adversarial distillation of a black-box teacher into a flow, on its own samples (arXiv 2605.26105)."""

from __future__ import annotations

from selfteach.recipes.network_kit import *


@settings
class AFD(ImageDiffusionRecipe):
    """A teacher gives finished samples and nothing else; a discriminator D learns on the way to tell them from the
    student's, and its score says of each of these how far to move toward it, or away.

    x̂ is a sample of the student's old weights for prompt y, x_T the teacher's for the same prompt;
    x_t = (1 − t) x̂ + t ε and v = ε − x̂ are the student's own, so that no sampling trajectory is kept:

        L_D = mean −log σ( D(x_T, y) − D(x̂, y) )
        r   = D(x̂, y) − mean of its prompt's, cut to ±c;     w = r moved into [0, 1]        (without gradient)
        L   = mean w |(1 − β) v_old + β v_θ − v|² + (1 − w) |(1 + β) v_old − β v_θ − v|² + λ w |v_θ − v_ref|²

    |·|² sums over a sample's entries. At v_θ = v_old the first two have the gradient 2β (2w − 1)(v_old − v): of flow
    matching on what D prefers, against it on what D does not. Their minimum is v_old + (2w − 1)(v − v_old)/β.
    """

    name = "afd"
    title = "On-Policy Adversarial Flow Distillation for Autoregressive Video Generation"
    source = "https://arxiv.org/abs/2605.26105"
    formula = "w |(1−β) v_old + β v_θ − v|² + (1−w) |(1+β) v_old − β v_θ − v|² + λ w |v_θ − v_ref|²"
    learner = "afd"
    networks = ("discriminator", "student")
    outputs = {
        "d_teacher": "[n] scores D(x_T, y) of the teacher's samples",
        "d_student": "[n] scores D(x̂, y) of the student's, prompt by prompt those of the teacher's",
        "score": "[n] scores D(x̂, y) of what the student is trained on, by the discriminator as it is then",
        "y": "[n] prompts, whole numbers",
        "v_theta": "[n, d] the student's velocity at x_t",
        "v_old": "[n, d] the same of the weights that sampled",
        "v_ref": "[n, d] the same of the student as it was at first",
        "v": "[n, d] ε − x̂ (student_loss sft: ε − x_T)",
    }

    optimization: NetworkOptimization = NetworkOptimization(
        optim="adamw", lr=1e-5, weight_decay=1e-4, max_grad_norm=1.0, batch_size=32, steps=300
    )
    data: str = "opposite"
    """Where the teacher's samples come from: a world of the plane, digits, or FILE.npz with arrays x and y (prompts,
    whole numbers)."""
    base_data: str = "opposite-biased"
    """What the student is pretrained on, of the same prompts."""
    teacher_samples: NonNegativeInt = 200
    """Samples that the teacher is asked for, once (0: new ones at every step)."""
    sampling_steps: Few = 4
    """Denoising steps of the student's own samples, in training as for the headline."""
    student_loss: Literal["nft", "gan", "sft"] = "nft"
    """What the student learns by: its scores as weights; the scores' gradient through its sampler, or flow matching on
    the teacher's samples (the two that the paper compares with)."""
    discriminator_loss: Literal["bradley-terry", "logistic"] = "bradley-terry"
    """What the discriminator learns by: pairs of one prompt, or each sample by itself (compared)."""
    score_scaling: Literal["min-max", "standardized"] = "min-max"
    """How r is moved into [0, 1]: the least of the batch to 0 and the greatest to 1; or c standard deviations below
    their mean, which is 0, to 0, and c above it to 1, as DiffusionNFT does (arXiv 2509.16117)."""
    adv_clip: PositiveFloat = 5.0
    """c: the largest r either way (score_scaling standardized: in standard deviations)."""
    discriminator_lr: PositiveFloat = 5e-6
    """The discriminator's learning rate; its optimizer is otherwise the student's."""
    discriminator_warmup: NonNegativeInt = 100
    """Steps of the discriminator alone before the student moves; the paper's number is not known to us."""
    freeze_discriminator: bool = False
    """Leave it as it is after that (compared: its score is then gamed)."""
    shuffle_scores: bool = False
    """Hand each score to another sample of its prompt (compared: what the score says is lost)."""
    old: Literal["ema", "current"] = "ema"
    """Whose velocity v_old is, and who samples: an average of the student's weights, or the student as it is."""
    ema_decay: UnitInterval = 0.99
    """The share that the average keeps of itself at each step."""
    beta: PositiveFloat = 0.1
    """β, how far the two velocities lie from v_old."""
    prior_weight: NonNegativeFloat = 1e-4
    """λ, what draws the student to where it began."""

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        if network == "discriminator":
            compared = bradley_terry if self.discriminator_loss == "bradley-terry" else logistic
            return compared(outputs["d_teacher"], outputs["d_student"])
        match self.student_loss:
            case "gan":
                return bradley_terry(outputs["score"], outputs["d_teacher"].detach())
            case "sft":
                return squared(outputs["v_theta"] - outputs["v"].detach()).mean()
            case "nft":
                return self.contrast(outputs).mean()

    def contrast(self, outputs: Outputs) -> Float[Tensor, "n"]:
        """The student's loss, sample by sample."""
        v_theta = outputs["v_theta"]
        v_old, v_ref, v = (outputs[name].detach() for name in ("v_old", "v_ref", "v"))
        v_old = v_theta.detach() if self.old == "current" else v_old
        toward = (1 - self.beta) * v_old + self.beta * v_theta
        away = (1 + self.beta) * v_old - self.beta * v_theta
        w = self.share(outputs["score"].detach(), outputs["y"])
        told = w * squared(toward - v) + (1 - w) * squared(away - v)
        return told + self.prior_weight * w * squared(v_theta - v_ref)

    def share(self, score: Float[Tensor, "n"], y: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
        """w: 1/2 where a sample is as good as its prompt's others."""
        r = score - group_mean(score, y)
        if self.score_scaling == "standardized":
            scale = self.adv_clip * r.square().mean().sqrt()
            return 0.5 + (r / scale).clamp(-1, 1) / 2 if scale > 0 else torch.full_like(r, 0.5)
        r = r.clamp(-self.adv_clip, self.adv_clip)
        low, high = r.min(), r.max()
        return (r - low) / (high - low) if high > low else torch.full_like(r, 0.5)


def squared(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    return vectors.square().sum(-1)
