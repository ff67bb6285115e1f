"""The baseline with a sparse reward: group-relative policy optimization (GRPO)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class GRPO(Recipe):
    """Reinforce the rollouts that beat their group's mean reward.

    DeepSeekMath (arXiv 2402.03300, sec. 4.1). Advantage A = (r − group mean) / (group std + ε), one per rollout:

        L = mean over rollouts of (1/|y|) Σ_t −min( ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A ) + kl · k3(p, ref)

    with ρ = π / π_sampling of the token, k3 the paper's estimator of KL(p‖ref). DAPO (arXiv 2503.14476) adds two:
    groups of equal rewards, which teach nothing, are replaced by others (``draws``), and an answer near the longest, of
    M = ``max_tokens``, loses ``overlong_penalty`` · min(1, max(0, (|y| − M + c M) / c M)), c = ``overlong_cache``.
    """

    name = "grpo"
    title = "Group Relative Policy Optimization"
    source = "https://arxiv.org/abs/2402.03300"
    formula = "mean_y (1/|y|) Σ_t −min( ρ A, clip(ρ) A ) + β k3(p, ref)"
    plays = True
    presets = {
        "deepseekmath": {},
        "dapo": {
            "clip_high": 0.28, "kl": 0.0, "mean_over": "tokens", "draws": 10, "overlong_cache": 0.2,
            "overlong_penalty": 0.5,
        },
        "dr-grpo": {"scale": "none", "kl": 0.0, "mean_over": "constant"},
        "rloo": {"baseline": "others", "scale": "none", "kl": 0.0},
    }  # fmt: skip

    rollouts: Rollouts = Rollouts(per_prompt=64)
    optimization: Optimization = Optimization(lr=1e-6, prompts=16)
    grpo: GRPOSettings = GRPOSettings()
    kl: NonNegativeFloat = 0.04
    """Coefficient of the KL to the initial policy (0: no reference is scored)."""
    mean_over: Literal["sequences", "tokens", "constant"] = "sequences"
    """Mean of per-rollout token means (paper), mean over all tokens (DAPO), or the sum over rollouts × max_tokens (Dr.
    GRPO: no rollout's length enters)."""
    overlong_cache: UnitInterval = 0.0
    """The last share of max_tokens in which an answer loses reward, more with each token (DAPO: 0.2, its 4096 of 20480
    tokens; 0: none)."""
    overlong_penalty: NonNegativeFloat = 1.0
    """What an answer of max_tokens loses (DAPO: 1 where right and wrong lie 2 apart, as 0.5 of rewards 0 and 1)."""
    draws: PositiveInt = 1
    """Rounds of further prompts, the first included, until a batch is full of groups whose rewards differ (DAPO's
    dynamic sampling; 1: groups are taken as they come)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "grpo compares rollouts of one prompt: per_prompt must be at least 2",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)} if self.kl else {}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = list(tools.play(prompts, self.rollouts.per_prompt))
        if self.draws == 1:
            return written
        kept = uneven(tools.grade(written))
        for _ in range(self.draws - 1):
            further = tools.more(len(prompts) - len({one.group for one in kept}))
            if not further:
                break
            kept += uneven(tools.grade(tools.play(further, self.rollouts.per_prompt)))
        return kept

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield self.grpo.term("policy", stats, self.advantage(stats), mean_over=self.divisor(stats))
        if self.kl:
            yield Sampled(
                name="kl",
                target=FromRole(REFERENCE),
                function=k3,
                coefficient=self.kl,
                mean_over=self.divisor(stats),
            )

    def advantage(self, stats: Statistics) -> Float[Tensor, "N"]:
        """[N] the group's advantages of the reward less what too long an answer loses."""
        if self.overlong_cache == 0:
            return self.grpo.advantage(stats)
        longest, cache = self.rollouts.max_tokens, self.overlong_cache * self.rollouts.max_tokens
        excess = (stats.length.to(stats.dtype) - (longest - cache)) / cache
        return self.grpo.advantage(stats, stats.reward - self.overlong_penalty * excess.clamp(0, 1))

    def divisor(self, stats: Statistics) -> Reduction | float:
        if self.mean_over == "constant":
            return max(1.0, float(stats.rows.sum() * self.rollouts.max_tokens))
        return self.mean_over


def uneven(written: Sequence[Trajectory]) -> list[Trajectory]:
    """The rollouts of groups in which rewards differ, all graded."""
    earned: dict[int, set[float]] = {}
    for one in written:
        earned.setdefault(one.group, set()).add(0.0 if one.grade is None else one.grade.reward)
    return [one for one in written if len(earned[one.group]) > 1]
