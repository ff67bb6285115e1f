"""The baseline without critic or group: advantages standardized over the batch (REINFORCE++)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class ReinforcePlusPlus(Recipe):
    """Reinforce what earns more than the batch does on average, a KL to the initial policy taken off on the way.

    "REINFORCE++: Stabilizing Critic-Free Policy Optimization with Global Normalization" (arXiv 2501.03262). With the
    reward r of an answer and κ_i = log π_sampling − log π_ref of its i-th token,

        A_t = r − kl Σ_{i ≥ t} κ_i,     Â = (A − mean) / standard deviation over all tokens of the batch
        L = mean over tokens of −min( ρ Â, clip(ρ, 1 − clip_low, 1 + clip_high) Â )

    Preset "baseline" (REINFORCE++ with baseline) takes the group's mean off r and has the KL as a term of the loss, in
    the form ½ κ² whose gradient is that of the reverse KL. With several minibatches each is standardized by itself.
    """

    name = "reinforce-plus-plus"
    title = "REINFORCE++"
    source = "https://arxiv.org/abs/2501.03262"
    formula = (
        "mean_t −min( ρ Â, clip(ρ) Â ),  Â = (A − mean)/std of the batch,  A_t = r − β Σ_{i≥t} log π/π_ref"
    )
    presets = {
        "paper": {},
        "baseline": {"baseline": "group", "kl_in": "loss", "kl_estimator": "k2", "per_prompt": 8},
    }

    rollouts: Rollouts = Rollouts()
    optimization: Optimization = Optimization(lr=5e-7, prompts=128)
    baseline: Literal["none", "group"] = "none"
    """What is taken off a reward before it is standardized: nothing, or the mean of its group."""
    kl: NonNegativeFloat = 0.01
    """β, coefficient of the KL to the initial policy (0: no reference is scored)."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Take the KL off the reward, token by token, or add it to the loss."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    """How a token's KL is estimated: log π/π_ref (in the reward), half its square, or π_ref/π − 1 − log(π_ref/π)."""
    clip_low: OpenUnit = 0.2
    """Lower clip of the ratio π/π_sampling: 1 − clip_low."""
    clip_high: PositiveFloat = 0.2
    """Upper clip of the ratio: 1 + clip_high."""
    mean_over: Literal["tokens", "sequences"] = "tokens"
    """Mean over all tokens, or mean of per-rollout token means."""

    def __post_init__(self) -> None:
        require(
            self.baseline == "none" or self.rollouts.per_prompt >= 2,
            "baseline group compares rollouts of one prompt: per_prompt must be at least 2",
        )
        require(
            self.kl_in == "reward" or self.kl_estimator != "k1" or self.kl == 0,
            "kl_estimator k1 has no gradient as a loss: set it to k2 or k3, or kl_in to reward",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        if not self.kl:
            return {}
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking, signal="sampled")}

    def terms(self, stats: Statistics) -> Iterable[Term]:
        taken_off = bool(self.kl) and self.kl_in == "reward"
        yield PolicyGradient(
            name="policy",
            advantage=self.advantage(stats, taken_off),
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            informed_by={REFERENCE: "sampled"} if taken_off else {},
            mean_over=self.mean_over,
        )
        if self.kl and self.kl_in == "loss":
            function = {"k2": k2, "k3": k3}[self.kl_estimator]
            yield Sampled(
                name="kl",
                target=FromRole(REFERENCE),
                function=function,
                coefficient=self.kl,
                mean_over=self.mean_over,
            )

    def advantage(self, stats: Statistics, taken_off: bool) -> Float[Tensor, "N T"]:
        """[N, T] Â, over the tokens of the update."""
        reward = stats.reward - (stats.group_mean(stats.reward) if self.baseline == "group" else 0.0)
        column = reward.to(stats.dtype).unsqueeze(1).expand(stats.mask.shape)
        if not taken_off:
            return stats.standardized(column)
        seen, estimate = stats.seen(REFERENCE), {"k1": k1, "k2": k2, "k3": k3}[self.kl_estimator]
        away = estimate(stats.behavior_log_prob, stats.log_prob(REFERENCE))
        return stats.standardized(column - self.kl * stats.to_go(away, among=seen), seen)
