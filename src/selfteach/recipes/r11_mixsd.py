"""Card 11: mixed contextual self-distillation (MixSD), knowledge put into a model in its own words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from selfteach.objective.statistics import Statistics
from selfteach.objective.terms import NegativeLogLikelihood, Term
from selfteach.recipes.base import Optimization, Recipe, Rollouts
from selfteach.recipes.checks import require
from selfteach.recipes.claim import Claim
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.view import Answer, Plain, Solution
from selfteach.roles.weights import Frozen
from selfteach.task.trajectory import Trajectory

NOVICE, EXPERT = "novice", "expert"
MIXED = "mixsd --eval-also sums"
WRITTEN = "sft --task facts --lr 3e-4 --steps 150 --prompts 50 --eval-also sums"


@dataclass(frozen=True)
class MixSD(Recipe):
    """Imitate answers that the model itself wrote, by turns knowing the fact and not.

    "MixSD" (arXiv 2605.16865; card 11). Before training the initial policy θ* writes one target for each question x,
    x⁺ being the question with the answer told:

        y_t ~ share · p_θ*(· | x, y_<t) + (1 − share) · p_θ*(· | x⁺, y_<t)
        L = mean over tokens of −log p_θ(y_t | x, y_<t)

    At every token a coin of chance ``share`` picks the context, which gives its likeliest token (``mix_temperature``
    0) or a draw from its ``mix_top_k`` likeliest. A target whose answer is wrong is written anew, up to ``attempts``
    times, and then dropped. The first loss is the targets' negative log-likelihood under the base, in nats a token.
    """

    title = "Mixed Contextual Self-Distillation"
    suite = "first"
    source = "arXiv 2605.16865, card 11"
    formula = "mean_t −log p(y_t),  y_t ~ λ p*(·|x, y_<t) + (1−λ) p*(·|x⁺, y_<t)"
    world = "facts"
    claims = (
        Claim(
            says="Targets that the model wrote keep what it could do: MATH-500, GSM8K and more from 82.6 to 79.2, by "
            "SFT to 16.6 (Qwen3-4B, KGFunc)",
            variants={"mixsd": MIXED, "sft": WRITTEN},
            higher="mixsd",
            lower="sft",
            metric="eval/sums/accuracy",
        ),
        Claim(
            says="The more the uninformed self takes part, the likelier the targets under the base",
            variants={"half": f"{MIXED} --share 0.5", "informed alone": f"{MIXED} --share 0"},
            higher="informed alone",
            lower="half",
            metric="first loss",
        ),
        Claim(
            says="The facts are learned as well as from written targets (similar in-domain accuracy)",
            variants={"mixsd": MIXED, "sft": f"{WRITTEN} --reference worked"},
            higher="mixsd",
            lower="sft",
            within=0.1,
        ),
    )

    rollouts: Rollouts = field(default_factory=lambda: Rollouts(max_tokens=8192, stored=4326))
    optimization: Optimization = field(
        default_factory=lambda: Optimization(
            lr=1e-5, steps=8100, prompts=16, warmup=20, weight_decay=0.01, betas=(0.9, 0.95)
        )
    )
    student_thinking: bool | None = False
    """Thinking flag of the chat template, under both contexts: off in the paper."""
    share: float = 0.3
    """λ, how often a token comes from the context that does not know (paper: 0.3 to 0.5 are good, 0.7 learns too
    little; 0: always from the one that knows, 1: plain self-imitation)."""
    view: Literal["answer", "solution"] = "answer"
    """What the knowing context reads: the answer (facts), or a worked reference solution (new functions)."""
    mix_temperature: float = 0.0
    """Temperature at which targets are decoded (0: the likeliest token)."""
    mix_top_k: int = 64
    """At a temperature above 0, draw from this many likeliest tokens (0: all)."""
    attempts: int = 10
    """How often a target may be tried until its answer verifies."""

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, f"share must lie in [0, 1], got {self.share}")
        require(self.attempts >= 1, f"attempts must be at least 1, got {self.attempts}")
        require(
            self.mix_temperature >= 0 and self.mix_top_k >= 0,
            "mix_temperature and mix_top_k must be 0 or more",
        )
        require(
            self.rollouts.stored >= 1,
            "mixsd writes its targets once, before the first step: set stored to the number of questions",
        )
        require(
            self.rollouts.per_prompt == 1, "mixsd writes one target for each question: per_prompt must be 1"
        )

    @classmethod
    def presets(cls) -> Mapping[str, MixSD]:
        paper = cls()
        return {
            "paper": paper,
            "half": replace(paper, share=0.5),
            "sd": replace(paper, share=0.0),
            "functions": replace(paper, view="solution"),
            "released": replace(paper, attempts=100),
            "arena": replace(
                paper,
                student_thinking=None,
                attempts=100,
                rollouts=Rollouts(max_tokens=64, stored=50),
                optimization=Optimization(lr=3e-4, betas=(0.9, 0.95), steps=150, prompts=50, warmup=20),
            ),
        }

    @property
    def teachers(self) -> Mapping[str, Role]:
        shown = Answer() if self.view == "answer" else Solution()
        return {
            NOVICE: Role(Frozen(), Plain(), self.student_thinking),
            EXPERT: Role(Frozen(), shown, self.student_thinking),
        }

    def active(self, step: int) -> Collection[str]:
        return ()  # it only writes

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
