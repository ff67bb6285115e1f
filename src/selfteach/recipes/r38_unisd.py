"""Self-distillation from demonstrations with five parts that can be switched on (UniSD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *

WRONG, RETRIES = "wrong", 2
"""Who reads a wrong demonstration, and how often one that turns out right is written anew."""
GOOD = (
    "{{problem}}\n\nThis is an example for a response to the question:\n{{{field}}}\n\n"
    "Study it with care, then solve the problem in your own way."
)
BESIDE = "Here is how other problems are solved.\n\n{{{name}}}\n\nNow solve this one.\n\n{{problem}}"


@settings
class UniSD(Recipe):
    """Pull the student to itself with a demonstration in view, as far as other contexts agree.

    "UniSD" (arXiv 2605.06597; formulas of its code). With the student S, the teacher T who reads the reference, and
    α = ``alpha``: ℓ_t = α KL(T‖M) + (1 − α) KL(S‖M), M = (1 − α) S + α T (0: KL(T‖S), 1: KL(S‖T)), bounded by
    ``clip_token``,

        L = mean over rollouts of Σ_t w_t ℓ_t / max(Σ_t w_t, 1)
          + contrast · mean relu( margin + |log S − log T(y_t)| − |log S − log T(y_t | a wrong demonstration)| )
          + features · mean ‖h_S − h_T‖² / d

    w_t says how little ``contexts`` further contexts c_k of the teacher disagree: with a_k = log T(y_t | c_k), by token
    w = 1 / (1 + γ min(Var a / its 95 % quantile, 10)), at least 0.01; by sequence w = exp(−γ Var mean_t a).
    """

    name = "unisd"
    title = "Unified Self-Distillation"
    source = "https://arxiv.org/abs/2605.06597"
    formula = "mean_y Σ_t w_t D(T_t, S_t) / Σ_t w_t + λ_c hinge(good, wrong) + λ_f ‖h_S − h_T‖²/d"
    sizes = {**Recipe.sizes, "wrong_tokens": "tokens", "contexts": "group"}
    presets = {
        "full": {},
        "base": {"agreement": "none", "ema_decay": None, "contrast": 0.0, "features": 0.0},
        "agreement": {"ema_decay": None, "contrast": 0.0, "features": 0.0, "context": "random", "gamma": 0.01},
        "ema": {"agreement": "none", "ema_decay": 0.9, "contrast": 0.0, "features": 0.0},
        "contrastive": {"agreement": "none", "ema_decay": None, "contrast": 0.1, "margin": 0.5, "features": 0.0},
        "match-joint": {"agreement": "none", "ema_decay": None, "contrast": 0.0, "features": 0.1},
        "match-only": {
            "agreement": "none", "ema_decay": None, "contrast": 0.0, "features": 1.0, "distill_weight": 0.0,
        },
        "clip": {"agreement": "none", "ema_decay": None, "contrast": 0.0, "features": 0.0, "clip_token": 10.0},
    }  # fmt: skip

    rollouts: Rollouts = Rollouts(temperature=0.7, max_tokens=2048)
    optimization: Optimization = Optimization(lr=2e-5, prompts=16, schedule="cosine", warmup=10)
    adapter: Adapter = Adapter(lora_rank=64, lora_alpha=128)
    reference: str = "solution"
    """The private field that is the demonstration."""
    alpha: UnitInterval = 0.0
    """α: 0 forward KL (the code's default), 1 reverse KL, between: JSD with M = (1 − α) S + α T."""
    distill_weight: NonNegativeFloat = 1.0
    """Coefficient of the divergence (0: features alone)."""
    clip_token: PositiveFloat | None = None
    """Upper bound on a token's divergence, in nats (mode clip: 10)."""
    clip_quantile: UnitInterval | None = None
    """The bound as a quantile of the batch's divergences, such as 0.99."""
    agreement: Literal["token", "sequence", "none"] = "token"
    """Weigh by how much the contexts agree: each token, each rollout, or not."""
    spread: Literal["variance", "range"] = "variance"
    """What disagreement is: the variance of the contexts' log-probs, or largest − smallest."""
    gamma: NonNegativeFloat = 0.001
    """γ, how much disagreement costs (UniSD*: 0.001, agreement alone: 0.01)."""
    normalize: Literal["weights", "tokens"] = "weights"
    """Divide by the summed weights (released code; a sequence's weight then cancels), or by the tokens."""
    contexts: PositiveInt = 3
    """K, the further contexts."""
    context: Kind = "retrieved"
    """What they show: demonstrations of the problems most like this one, of any, or instructions that the model made
    of some."""
    demonstrations: PositiveInt = 3
    """Demonstrations in each context."""
    ema_decay: UnitInterval | None = 0.98
    """β of the averaged teacher (mode ema: 0.9; none: the initial policy)."""
    ema_every: PositiveInt = 10
    """Steps between its updates."""
    contrast: NonNegativeFloat = 0.01
    """λ_c, the hinge's coefficient (alone: 0.1)."""
    margin: NonNegativeFloat = 0.1
    """m of the hinge, in nats (alone: 0.5)."""
    negatives: PositiveInt = 4
    """Wrong demonstrations that the model writes of each problem, once a process; one is drawn."""
    wrong_tokens: PositiveInt = 512
    """Longest wrong demonstration, in tokens."""
    features: NonNegativeFloat = 0.01
    """λ_f, the coefficient of the last layer's squared distance (alone: 0.1)."""

    def __post_init__(self) -> None:
        require(self.agreement == "none" or self.contexts >= 2, "agreement compares contexts: at least 2")
        require(
            None in (self.clip_token, self.clip_quantile),
            "clip_token and clip_quantile are one bound: set one",
        )
        all_off = not (self.distill_weight or self.contrast or self.features)
        require(not all_off, "distill_weight, contrast and features are all 0: nothing is learned")

    @property
    def beside(self) -> tuple[str, ...]:
        """The names of the further contexts, and of the private fields that they show."""
        return () if self.agreement == "none" else tuple(f"context_{k}" for k in range(self.contexts))

    @property
    def teachers(self) -> Mapping[str, Role]:
        decay = self.ema_decay
        own: Weights = Frozen() if decay is None else EMA(decay, self.ema_every, from_start=True)
        views: dict[str, View] = {TEACHER: Field(self.reference, GOOD)}
        views |= {name: Told(BESIDE.format(name=name), name) for name in self.beside}
        if self.contrast:
            views[WRONG] = Told(GOOD.format(field=WRONG), WRONG)
        return {
            name: Role(own, view, self.student_thinking, signal="sampled" if name == WRONG else "full")
            for name, view in views.items()
        }

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if self.beside:
            prompts = beside(tools, prompts, self.reference, self.beside, self.demonstrations, self.context)
        if self.contrast:
            prompts = misled(tools, prompts, self.negatives, RETRIES, self.wrong_tokens)
        return tools.sample(prompts, self.rollouts.per_prompt)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        if self.distill_weight:
            weight = self.agreed(stats)
            shared: Any = {
                "weight": weight,
                "mean_over": "sequences" if isinstance(weight, float) else "rollouts",
            }
            how: Any = {"divergence": gkd_jsd(self.alpha), "ceiling": self.bound(stats)}
            near = FromRole(TEACHER)
            yield Match(name="distill", target=near, coefficient=self.distill_weight, **how, **shared)
        if self.contrast:
            columns = {"good": stats.log_prob(TEACHER), WRONG: stats.log_prob(WRONG)}
            informed: Any = dict.fromkeys((TEACHER, WRONG), "sampled")
            kept: Any = {"informed_by": informed, "mean_over": "sequences", "coefficient": self.contrast}
            apart = partial(contrast, margin=self.margin)
            yield OfColumns(name="contrast", function=apart, columns=columns, **kept)
        if self.features:
            yield Hidden(name="features", target=TEACHER, coefficient=self.features, mean_over="sequences")

    def bound(self, stats: Statistics) -> float | None:
        """The largest divergence of a token, in nats."""
        if self.clip_quantile is None:
            return self.clip_token
        found = stats.divergence(TEACHER, gkd_jsd(self.alpha))
        return float(stats.quantile(found, self.clip_quantile, stats.seen(TEACHER)))

    def agreed(self, stats: Statistics) -> Float[Tensor, "N T"] | float:
        """[N, T] each token's weight over what its rollout's loss is divided by; rows of fewer contexts weigh 1."""
        if self.agreement == "none":
            return 1.0
        own = stats.seen(TEACHER)
        known = torch.stack([stats.seen(name) for name in self.beside]).all(dim=0) & own
        likely = torch.stack([cold(stats, name) for name in self.beside])
        how: Any = {"by": self.agreement, "gamma": self.gamma, "spread": self.spread}
        weight = torch.where(own, agreement(stats, likely, known, **how), 0.0)
        divisor = weight if self.normalize == "weights" else own.to(weight.dtype)
        return weight / divisor.sum(dim=1, keepdim=True).clamp(min=1)


def cold(stats: Statistics, role: str) -> Float[Tensor, "N T"]:
    """[N, T] a context's log-prob (nats) of the sampled token at temperature 1, whatever the loss's."""
    return stats.column(f"cold/{role}", Quantity(partial(Positions.sampled, role=role), (role,)))
