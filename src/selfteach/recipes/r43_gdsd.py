"""GDSD: a masked-diffusion language model taught by itself, tilted by the reward (arXiv 2605.29398)."""

from __future__ import annotations

import math

from selfteach.recipes.network_kit import *


@settings
class GDSD(NetworkRecipe):
    """The best policy under a KL to the old one and to a reference is π* ∝ π_old^(1−β) π_ref^β exp(ψ A). Of a
    masked-diffusion model it makes a denoiser that is tilted by the advantage A; the student is regressed on its scores
    without a likelihood, an importance ratio or a normalizer. x₀ is sampled by the old weights, x_t a masked copy,
    s = Σ log p(x₀ⁿ | x_t) over masked n; centered: of logits less their mean over the vocabulary.

        L = E (s_θ − s_old − ψ A)² + β (s_θ − s_ref)²                                                      (form paper)
        L = 1/n Σ (clamp(s_θ − s_old, log(1 − ε), log(1 + ε))/L − ψ A)² + β mean (s_θ − s_ref)²/2/L     (form released)

    In the latter Σ runs over completions and their draws of masks, and L beside it is a completion's length. At
    s_θ = s_old it has the gradient −(2ψ/L) A ∇s_θ, a policy gradient; with ε = 4e-4 nats of a whole completion it is
    never far from there: ε is small beside ψ A, and the gradient ends where the clamp begins.
    """

    name = "gdsd"
    title = "GDSD: Reinforcement Learning as Guided Denoiser Self-Distillation for Diffusion Language Models"
    source = "https://arxiv.org/abs/2605.29398"
    formula = "(clamp(s_θ − s_old, log(1 ± ε))/L − ψ A)² + β (s_θ − s_ref)²/2/L,  s = Σ log p_θ(x₀ⁿ | x_t)"
    learner = "masked"
    outputs = {
        "s": "[n, k] scores of n completions under k draws of masks",
        "s_old": "[n, k] the same, under the same masks, of the weights that sampled them",
        "s_ref": "[n, k] the same of the reference",
        "L": "[n] lengths of the completions",
        "A": "[n] advantages: the reward less the mean of the group's others",
    }
    presets = {
        "released": {},
        "released-tlc": {"centered": True, "elbo_weighted": True},
        "paper": {"form": "paper", "epsilon": None, "coupled": False},
        "paper-tlc": {"form": "paper", "epsilon": None, "coupled": False, "centered": True},
    }

    optimization: NetworkOptimization = NetworkOptimization(
        optim="adamw", lr=3e-6, betas=(0.9, 0.99), weight_decay=0.01, max_grad_norm=0.2, batch_size=96
    )
    objective: Literal["gdsd", "espo", "reinforce"] = "gdsd"
    """Regression on the tilted denoiser; or what it is compared with, the prior term alike: PPO on
    exp((s_θ − s_old)/L), clipped to 1 ± ε (ESPO, arXiv 2512.03759), or the policy gradient −A s_θ/L, both with
    elbo_weighted."""
    form: Literal["released", "paper"] = "released"
    """Which of gdsd's two losses; paper: with epsilon none and without coupled."""
    centered: bool = False
    """Scores of logits less their mean over the vocabulary, without softmax (the paper's TLC)."""
    elbo_weighted: bool = False
    """Weight a masked copy's scores by (L + 1)/x, x its masked tokens, so that s is a lower bound of log p."""
    coupled: bool = True
    """Score each copy's complement too, half of either: every token once."""
    epsilon: OpenUnit | None = 4e-4
    """ε of the clamp, and of espo's clip (none: neither)."""
    psi: PositiveFloat = 10.0
    """ψ of gdsd, how far the advantage tilts the denoiser."""
    beta: NonNegativeFloat = 1e-3
    """β, what draws the student to the reference (0: nothing)."""
    ref_sync_every: PositiveInt | None = 64
    """Updates after which the reference becomes the student as it is (none: never)."""
    num_iterations: PositiveRows = 8
    """Updates on the completions of a batch, each with masks of its own."""
    num_mc: PositiveRows = 2
    """Draws of masks of each update."""
    per_prompt: PositiveRows = 6
    """Completions of each prompt; batch_size counts those of all prompts."""
    temperature: NonNegativeFloat = 1.0
    """Of sampled completions in training; held-out ones are sampled at 0."""
    diffusion_steps: PositiveRows = 64
    """Steps of a completion (in each some of its tokens are unmasked; of more steps than tokens, one)."""
    block_length: PositiveRows = 32
    """Tokens of a block; blocks are unmasked one after the other."""
    remasking: Literal["low_confidence", "entropy"] = "low_confidence"
    """Which tokens stay masked: those whose sampled token is least likely (LLaDA), or of greatest entropy (Dream)."""
    data: Literal["sudoku"] = "sudoku"
    """What is to be filled in: puzzles of 4 × 4 cells with one solution; a fifth of the solutions is held out."""
    blanks: PositiveRows = 10
    """Cells to be filled, the tokens of a completion; the others are its prompt."""
    width: PositiveRows = 64
    """Hidden size of the denoiser, a BERT with four heads."""
    depth: Few = 3
    """Its layers."""
    pretrain_steps: NonNegativeInt = 500
    """Batches of masked cross-entropy on solved puzzles before the method's own (0: none)."""
    pretrain_batch_size: PositiveRows = 128
    """Their puzzles."""
    pretrain_lr: PositiveFloat = 1e-3
    """Their learning rate (adam, a cosine to 0)."""
    eval_prompts: PositiveRows = 300
    """Held-out puzzles."""

    def __post_init__(self) -> None:
        require(
            self.per_prompt > 1, "per_prompt must be 2 or more: an advantage is taken over the group's others"
        )
        rows = self.optimization.batch_size
        require(
            rows % self.per_prompt == 0,
            f"batch_size {rows} is no multiple of per_prompt {self.per_prompt}: it counts completions of all prompts",
        )
        require(self.width % 4 == 0, f"width must be a multiple of 4, the denoiser's heads; got {self.width}")
        require(
            self.form == "released" or (self.epsilon is None and not self.coupled),
            "form paper has no clamp and reads the masked tokens alone: take --preset paper, or give --epsilon none "
            "and --no-coupled",
        )
        require(
            self.objective == "gdsd" or self.elbo_weighted,
            f"objective {self.objective} reads lower bounds of log p: give --elbo-weighted",
        )
        require(
            self.objective == "gdsd" or not (self.centered or self.form == "paper"),
            f"centered scores and form paper are gdsd's, and objective is {self.objective}",
        )

    def loss(self, network: str, outputs: Outputs, step: int) -> Float[Tensor, ""]:
        s, s_old, s_ref = outputs["s"], outputs["s_old"].detach(), outputs["s_ref"].detach()
        L, A = (outputs[name].detach()[:, None] for name in ("L", "A"))
        prior = (s - s_ref).square()
        if self.form == "paper":
            return ((self.clamped(s - s_old) - self.psi * A).square() + self.beta * prior).mean()
        match self.objective:
            case "gdsd":
                each = (self.clamped(s - s_old) / L - self.psi * A).square()
            case "espo":
                ratio = ((s - s_old) / L).exp()
                each = -torch.minimum(ratio * A, self.clipped(ratio) * A)
            case "reinforce":
                each = -A * s / L
        return each.sum(1).mean() + self.beta * (prior / 2 / L).mean()

    def clamped(self, change: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """s_θ − s_old, held within log(1 − ε) and log(1 + ε): without gradient where it lies beyond."""
        if self.epsilon is None:
            return change
        return change.clamp(math.log1p(-self.epsilon), math.log1p(self.epsilon))

    def clipped(self, ratio: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return ratio if self.epsilon is None else ratio.clamp(1 - self.epsilon, 1 + self.epsilon)
