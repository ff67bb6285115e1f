"""Self-play without data: an examiner poses problems, and how it made them teaches who must solve them (pi-Play)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from selfteach.recipes.kit import *


@settings
class PiPlay(Recipe):
    """Let an examiner pose problems, and distill from a copy of the student that reads how each was made.

    "pi-Play: Multi-Agent Self-Play via Privileged Self-Distillation without External Data" (arXiv 2604.14054). A round:
    ``examiner_steps`` of stage ``Examine``, then ``steps`` of the student π_S, which answers what the examiner poses.
    The path c on which a question q was made is read by the teacher π_T alone, π_T ← (1 − τ) π_T + τ π_S after each
    step of the student; both begin as the base and go on through all rounds. With advantages A among the answers to q,

        L = mean over answers of Σ_t ( −min(ρ A, clip(ρ) A) + kl · k3(π_S, π_ref) )
            + λ_m · mean over answers of (1/|y|) Σ_t KL( π_S(·|q, y_<t) ‖ sg π_T(·|q, c, y_<t) )

    λ_m = ``distill_weight`` · ``distill_decay``^(m − 1) in round m. Questions are posed step by step: the examiner
    stands still meanwhile. n, r_f, δ, β, λ and its decay, learning rates and group size could not be read: these
    defaults are ours.
    """

    name = "pi-play"
    title = "Self-Play via Privileged Self-Distillation (pi-Play)"
    source = "https://arxiv.org/abs/2604.14054"
    formula = "mean_y Σ_t [−min(ρ A, clip(ρ) A) + β k3] + λ_m mean_t KL(π_S(·|q) ‖ EMA π_T(·|q, c))"
    self_play = True
    sizes = {
        **Recipe.sizes, "examiner_steps": "steps", "tries": "group", "question_tokens": "tokens",
    }  # fmt: skip
    numbers = Examine.numbers
    presets = {"paper": {}, "no-distill": {"distill_weight": 0.0}}

    rollouts: Rollouts = Rollouts(per_prompt=8)
    optimization: Optimization = Optimization(lr=1e-6, prompts=32, steps=50)
    grpo: GRPOSettings = GRPOSettings()
    rounds: PositiveInt = 3
    """M: how often the examiner's steps and then the student's come."""
    examiner_steps: PositiveInt = 50
    """Steps of the examiner in a round (paper: 50, as the student's)."""
    examiner_lr: PositiveFloat = 1e-6
    """Peak learning rate of the examiner."""
    tries: PositiveInt = 5
    """n, answers of the student by which a problem's difficulty is told."""
    format_reward: NonNegativeFloat = 0.5
    """r_f, what the examiner earns by a text that poses a problem."""
    hop_eps: PositiveFloat = 1e-4
    """δ beside the variance of the examiner's rewards of equally many hops."""
    question_tokens: PositiveInt = 512
    """Longest text of the examiner, in tokens."""
    draws: PositiveInt = 4
    """Texts that are asked of the examiner, at most, until one poses a problem for the student."""
    privilege: Literal["path", "half", "answer", "none"] = "path"
    """What the teacher reads beside the question: the path on which it was made, the first half of that, the answer, or
    nothing (the paper's ablation)."""
    tau: UnitInterval = 0.05
    """τ of π_T ← (1 − τ) π_T + τ π_S after each step of the student (1: the student as it is)."""
    distill_weight: NonNegativeFloat = 0.1
    """λ, weight of the distillation in the first round (0: GRPO on what the examiner poses)."""
    distill_decay: UnitInterval = 0.5
    """What λ is multiplied by from round to round (1: constant)."""
    kl: NonNegativeFloat = 0.001
    """β of both policies' KL to the weights before the first round (0: no reference is scored)."""
    mean_over: Literal["rollouts", "sequences", "tokens"] = "rollouts"
    """Sum over an answer's tokens, then mean over answers (as the paper writes it), mean of per-answer token means, or
    mean over all tokens, of policy gradient and KL."""

    def __post_init__(self) -> None:
        require(
            self.tries >= 2,
            "tries must be at least 2: a problem that one answer solves is neither hard nor easy",
        )
        require(
            self.rollouts.per_prompt >= 2,
            "pi-play compares answers to one question: per_prompt must be at least 2",
        )

    @property
    def stages(self) -> Mapping[str, Recipe]:
        found: dict[str, Recipe] = {}
        for i in range(1, self.rounds + 1):
            last = self if i == self.rounds else replace(self, rounds=i)
            found |= {f"examine-{i}": last.examining(), f"solve-{i}": last}
        return found

    def examining(self) -> Recipe:
        """The stage before this one."""
        return Examine(
            rollouts=replace(self.rollouts, per_prompt=self.tries),
            optimization=replace(self.optimization, lr=self.examiner_lr, steps=self.examiner_steps),
            adapter=self.adapter,
            student_thinking=self.student_thinking,
            question_tokens=self.question_tokens,
            format_reward=self.format_reward,
            hop_eps=self.hop_eps,
            kl=self.kl,
        )

    @property
    def strength(self) -> float:
        """λ of this round."""
        return self.distill_weight * self.distill_decay ** (self.rounds - 1)

    @property
    def view(self) -> View:
        views: dict[str, View] = {
            "path": Solution(), "half": Partial(0.5, template=BEGINNING_ONLY), "answer": Answer(), "none": Plain(),
        }  # fmt: skip
        return views[self.privilege]

    @property
    def teachers(self) -> Mapping[str, Role]:
        average = EMA(1 - self.tau, from_start=True, lasting=True)
        taught = {TEACHER: Role(average, self.view, self.student_thinking)} if self.strength else {}
        return {**taught, **(before_play(self.student_thinking) if self.kl else {})}

    @property
    def writers(self) -> Mapping[str, Role]:
        return {EXAMINER: Role(Live(EXAMINER), Plain(), self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        posed, left = list[Prompt](), list(prompts)
        for _ in range(self.draws):
            texts = examined(tools, left, EXAMINER, self.question_tokens) if left else []
            found = [(one, problem_of(tools, text)) for one, text in zip(left, texts, strict=True)]
            posed += [asked for _, asked in found if asked is not None]
            left = [one for one, asked in found if asked is None]
        return tools.sample(posed, self.rollouts.per_prompt)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        rows = max(1.0, float(stats.rows.sum()))
        over: Reduction | float = rows if self.mean_over == "rollouts" else self.mean_over
        yield self.grpo.term("policy", stats, mean_over=over)
        if self.kl:
            yield Sampled(
                name="kl", target=FromRole(REFERENCE), function=k3, coefficient=self.kl, mean_over=over
            )
        if self.strength:
            yield Match(
                name="distill",
                target=FromRole(TEACHER),
                divergence=ReverseKL(),
                coefficient=self.strength,
                mean_over="sequences",
            )
