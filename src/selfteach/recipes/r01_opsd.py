"""On-policy self-distillation (OPSD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from selfteach.recipes.kit import *


@settings
class OPSD(Recipe):
    """Pull the student to its solution-reading, frozen self on its own tokens.

    "Self-Distilled Reasoner" (https://arxiv.org/abs/2601.18734). The student p answers the bare problem; the teacher
    q, the same model at step 0, reads the reference solution and scores those tokens:

        L = mean over rollouts of (1/|y|) Σ_t Σ_v min( q(v) (log q(v) − log p(v)), clip_entry )

    over the full vocabulary, both at the sampling temperature, gradient through p only.
    """

    name = "opsd"
    title = "On-Policy Self-Distillation"
    source = "https://arxiv.org/abs/2601.18734"
    formula = "mean_y (1/|y|) Σ_t Σ_v min( q(v) log(q(v)/p(v)), τ )"
    sizes = {**Recipe.sizes, "reason_tokens": "tokens"}
    presets = {
        "v3-thinking": {},
        "v3-nonthinking": {"clip_entry": 1e-6},
        "v1": {"beta": 0.5, "clip_entry": None, "max_tokens": 2048, "lr": 2e-4, "max_grad_norm": None},
    }

    rollouts: Rollouts = Rollouts(temperature=1.1, top_p=0.95, top_k=20)
    optimization: Optimization = Optimization(lr=5e-6, max_grad_norm=0.1)
    adapter: Adapter = Adapter(lora_rank=64, lora_alpha=128)
    student_thinking: bool | None = False
    """Thinking flag of the student's chat template: off in the paper's v3."""
    teacher_thinking: bool | None = True
    """Thinking flag of the teacher's chat template: on in the paper."""
    weights: Literal["frozen", "live", "ema"] = "frozen"
    """Whose weights teach: the initial policy, the current one, or an average. The paper's is frozen."""
    ema_decay: UnitInterval = 0.999
    """Decay of the averaged teacher (released code: 0.999); used with ``--weights ema``."""
    view: Literal["solution", "answer", "field", "prefix", "plain"] = "solution"
    """What the teacher is shown: the worked solution (paper), the answer, a field of any name, fixed turns before, or
    nothing more."""
    field: str = ""
    """The private field of view "field"."""
    prefix: Messages = ()
    """The turns of view "prefix" (command line: --prefix FILE, a JSON list of role and content)."""
    reason_first: bool = False
    """Let the teacher write an analysis of the reference before it scores (released option)."""
    reason_tokens: PositiveInt = 4096
    """Longest analysis, in tokens (released code: 4096)."""
    loss: Literal["divergence", "policy-gradient"] = "divergence"
    """Full-distribution divergence (paper), or the sampled-token policy gradient of reverse KL (variant)."""
    beta: UnitInterval = 0.0
    """0: forward KL(q‖p) (v3), 1: reverse KL(p‖q), between: JSD with m = β q + (1 − β) p (v1: 0.5)."""
    clip_entry: PositiveFloat | None = 0.05
    """Upper bound on each vocabulary entry's summand (v3: 0.05; 0.06 for 8B; none: unclipped)."""
    teacher_top_k: PositiveInt | None = None
    """Compare on the teacher's k likeliest tokens, renormalized (released option; none: full vocabulary)."""
    loss_temperature: PositiveFloat | None = None
    """Temperature of both softmaxes in the loss (none: the sampling temperature, as in the paper)."""
    mean_over: Literal["sequences", "tokens"] = "sequences"
    """Mean of per-rollout token means (paper's formula), or mean over all tokens (released code)."""

    def __post_init__(self) -> None:
        require(self.view != "prefix" or bool(self.prefix), "view prefix needs its turns: --prefix FILE")
        require((self.view == "field") == bool(self.field), "view field and --field NAME go together")
        require(
            self.loss == "divergence" or (self.teacher_top_k is None and self.clip_entry is None),
            "loss policy-gradient reads the sampled token only: set teacher_top_k and clip_entry to none",
        )
        require(
            not (self.weights == "live" and self.view == "plain"),
            "a live teacher under the plain view is the student itself: the loss is always 0",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        whose: Mapping[str, Weights] = {"frozen": Frozen(), "live": Live(), "ema": EMA(self.ema_decay)}
        shown: Mapping[str, View] = {
            "solution": Solution(), "answer": Answer(), "field": Field(self.field), "prefix": Prefix(self.prefix),
            "plain": Plain(),
        }  # fmt: skip
        thought = ReasonFirst(self.reason_tokens) if self.reason_first else None
        return {TEACHER: Role(whose[self.weights], shown[self.view], self.teacher_thinking, thought)}

    @property
    def temperature(self) -> float:
        return self.loss_temperature or self.rollouts.temperature

    def terms(self, stats: Statistics) -> Iterable[Term]:
        if self.loss == "policy-gradient":
            yield Sampled(name="distill", target=FromRole(TEACHER), mean_over=self.mean_over)
            return
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=gkd_jsd(self.beta, clip_entry=self.clip_entry),
            support=likeliest(self.teacher_top_k, of="teacher", tail="renormalize"),
            mean_over=self.mean_over,
        )
