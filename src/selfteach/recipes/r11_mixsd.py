"""Mixed contextual self-distillation (MixSD), knowledge put into a model in its own words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from selfteach.recipes.kit import *

NOVICE, EXPERT = "novice", "expert"


@settings
class MixSD(Recipe):
    """Imitate answers that the model itself wrote, by turns knowing the fact and not.

    "MixSD" (arXiv 2605.16865). Before training the initial policy θ* writes one target for each question x,
    x⁺ being the question with the answer told:

        y_t ~ share · p_θ*(· | x, y_<t) + (1 − share) · p_θ*(· | x⁺, y_<t)
        L = mean over tokens of −log p_θ(y_t | x, y_<t)

    At every token a coin of chance ``share`` picks the context, which gives its likeliest token (``mix_temperature``
    0) or a draw from its ``mix_top_k`` likeliest. A target whose answer is wrong is written anew, up to ``attempts``
    times, and then dropped. The first loss is the targets' negative log-likelihood under the base, in nats a token.
    """

    name = "mixsd"
    title = "Mixed Contextual Self-Distillation"
    source = "https://arxiv.org/abs/2605.16865"
    formula = "mean_t −log p(y_t),  y_t ~ λ p*(·|x, y_<t) + (1−λ) p*(·|x⁺, y_<t)"
    presets = {
        "paper": {},
        "half": {"share": 0.5},
        "sd": {"share": 0.0},
        "functions": {"view": "solution"},
        "released": {"attempts": 100},
    }

    rollouts: Rollouts = Rollouts(max_tokens=8192, stored=4326)
    optimization: Optimization = Optimization(
        lr=1e-5, steps=8100, prompts=16, warmup=20, weight_decay=0.01, betas=(0.9, 0.95)
    )
    student_thinking: bool | None = False
    """Thinking flag of the chat template, under both contexts: off in the paper."""
    share: UnitInterval = 0.3
    """λ, how often a token comes from the context that does not know (paper: 0.3 to 0.5 are good, 0.7 learns too
    little; 0: always from the one that knows, 1: plain self-imitation)."""
    view: Literal["answer", "solution"] = "answer"
    """What the knowing context reads: the answer (facts), or a worked reference solution (new functions)."""
    mix_temperature: NonNegativeFloat = 0.0
    """Temperature at which targets are decoded (0: the likeliest token)."""
    mix_top_k: NonNegativeInt = 64
    """At a temperature above 0, draw from this many likeliest tokens (0: all)."""
    attempts: PositiveInt = 10
    """How often a target may be tried until its answer verifies."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.stored >= 1,
            "mixsd writes its targets once, before the first step: set stored to the number of questions",
        )
        require(
            self.rollouts.per_prompt == 1, "mixsd writes one target for each question: per_prompt must be 1"
        )

    @property
    def writers(self) -> Mapping[str, Role]:
        shown = Answer() if self.view == "answer" else Solution()
        return {
            NOVICE: Role(Frozen(), Plain(), self.student_thinking),
            EXPERT: Role(Frozen(), shown, self.student_thinking),
        }

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """Mixture decoding; a target that does not verify is written anew, and at last dropped."""
        shares = {NOVICE: self.share, EXPERT: 1 - self.share}
        left, kept = list(prompts), []
        for _ in range(self.attempts):
            if not left:
                break
            tried = tools.grade(
                tools.mix(left, shares, temperature=self.mix_temperature, top_k=self.mix_top_k)
            )
            kept += [one for one in tried if one.right]
            left = [prompt for prompt, one in zip(left, tried, strict=True) if not one.right]
        return sorted(kept, key=lambda one: one.group)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll", mean_over="tokens")
