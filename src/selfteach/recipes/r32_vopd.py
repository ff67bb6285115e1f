"""On-policy distillation with a control-variate baseline (vOPD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from selfteach.recipes.kit import *


@settings
class VOPD(Recipe):
    """Distill on sampled tokens, each against what a token was worth on average at its position.

    "KL for a KL" (arXiv 2605.07865). The student p answers, an external teacher q scores the sampled tokens
    y_t. The reward log q(y_t)/p(y_t) has a value function in closed form, −KL(p‖q), which serves as its baseline:

        A_t = log q(y_t) − log p(y_t) + KL( p(·|s_t) ‖ q(·|s_t) )          without gradient
        L   = mean over tokens of −A_t log p(y_t)

    The expected gradient is that of KL(p‖q), as without the baseline; the mean of A_t is 0. With ``baseline_top_k`` the
    KL is over the student's k likeliest tokens, both sides renormalized: still the same expected gradient. Exact for
    untruncated sampling with the student's present weights only.
    """

    name = "vopd"
    title = "On-Policy Distillation with a Control Variate Baseline"
    source = "https://arxiv.org/abs/2605.07865"
    formula = "mean_t −[ log q(y_t) − log p(y_t) + KL(p‖q) ] log p(y_t)"
    presets = {"paper": {}, "top-k": {"baseline": "top-k"}}

    rollouts: Rollouts = Rollouts(max_tokens=2048)
    optimization: Optimization = Optimization(lr=1e-5, prompts=64, schedule="cosine")
    adapter: Adapter = Adapter(lora_rank=64, lora_alpha=128)
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    baseline: Literal["full", "top-k", "none"] = "full"
    """What is taken off the reward: the whole KL (paper), that of the likeliest tokens, or nothing."""
    baseline_top_k: PositiveInt = 100
    """How many of the student's likeliest tokens the baseline "top-k" reads (repository: 100)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.top_p == 1 and self.rollouts.top_k == 0,
            "vopd's expectation is over the whole distribution: sample with top_p 1 and top_k 0",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        k = self.baseline_top_k if self.baseline == "top-k" else None
        yield Sampled(
            name="distill",
            target=FromRole(TEACHER),
            control_variate=None
            if self.baseline == "none"
            else likeliest(k, of="student", tail="renormalize"),
        )
