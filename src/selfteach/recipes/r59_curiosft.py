"""Supervised fine-tuning that keeps the model undecided where it was (CurioSFT)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class CurioSFT(Recipe):
    """Imitate demonstrations, and stay near a hotter copy of oneself, hotter where one is undecided.

    "Learning While Staying Curious" (arXiv 2602.02244; formulas of its released code). On a demonstration's tokens y_t,
    with the student p and a lagged copy of it as teacher, whose logits are divided by τ_t (q, without gradient):

        L = mean over tokens of −log p(y_t) + α ½ (log p(y_t) − log q(y_t))²

    so that a token weighs 1 + α log(q/p). τ_t raises the entropy H of the teacher's ``entropy_top_k`` likeliest tokens
    to H + gain · σ(slope (H − center)) nats, as far as [τ_low, τ_high] allows; it is τ_low where the teacher's entropy
    is at most ``certain``.
    """

    name = "curiosft"
    title = "Entropy-Preserving SFT via Adaptive Self-Distillation"
    source = "https://arxiv.org/abs/2602.02244"
    formula = "mean_t −log p(y_t) + α ½ (log p(y_t) − log q_τ(y_t))²"
    presets = {"paper": {}, "sft": {"alpha": 0.0}}

    rollouts: Rollouts = Rollouts(max_tokens=8192)
    optimization: Optimization = Optimization(lr=1e-5, prompts=256, schedule="cosine", warmup=60, steps=600)
    reference: str = "solution"
    """The private field that is imitated."""
    alpha: NonNegativeFloat = 1.0
    """α, how much the pull to the hotter self counts (0: supervised fine-tuning)."""
    sync_every: PositiveInt = 5
    """Steps after which the teacher is moved to the student."""
    sync_rate: UnitInterval = 0.99
    """How far it is moved: teacher ← (1 − rate) teacher + rate student (the code's mixup_alpha; no decay of an EMA)."""
    tau_low: PositiveFloat = 1.1
    """The lowest temperature."""
    tau_high: PositiveFloat = 1.5
    """The highest temperature."""
    gain: NonNegativeFloat = 0.5
    """How much entropy is added at most, in nats."""
    slope: NonNegativeFloat = 2.0
    """How sharply the added entropy rises with the entropy there is."""
    center: NonNegativeFloat = 1.2
    """The entropy (nats) at which half of the gain is added."""
    entropy_top_k: PositiveInt = 512
    """How many of the teacher's likeliest tokens its entropy is taken over."""
    certain: NonNegativeFloat = 0.03
    """Entropy (nats, over the vocabulary) up to which a token is taken for a fact."""

    def __post_init__(self) -> None:
        require(self.tau_low <= self.tau_high, "tau_low must be at most tau_high")

    @property
    def generates(self) -> bool:
        return False

    @property
    def teachers(self) -> Mapping[str, Role]:
        lagged = EMA(1 - self.sync_rate, every=self.sync_every, from_start=True)
        return {TEACHER: Role(lagged, Plain(), self.student_thinking)} if self.alpha else {}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        return tools.quote(prompts, self.reference)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll")
        if self.alpha:
            yield Sampled(
                name="curiosity",
                target=FromRole(TEACHER),
                function=k2,
                coefficient=self.alpha,
                temperature=1.0,
                target_temperature=self.raised,
                informed_by={TEACHER: "full"},
            )

    def raised(self, at: Positions) -> Float[Tensor, "P"]:
        """[P] τ_t of the teacher."""
        logits = at.logits[TEACHER]
        likeliest = logits.topk(min(self.entropy_top_k, logits.shape[-1]), dim=-1).values
        here = entropy(likeliest.log_softmax(-1))
        wanted = here + self.gain * torch.sigmoid(self.slope * (here - self.center))
        found = temperature_of(likeliest, wanted, self.tau_low, self.tau_high)
        return found.masked_fill(entropy(at.log_probs(TEACHER)) <= self.certain, self.tau_low)
