"""One network as privileged teacher and as student, both trained with a reward (π-Distill)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from selfteach.recipes.kit import *


@settings
class PiDistill(Recipe):
    """Reinforce what the privileged teacher wrote, and let the same weights write it without the privilege.

    "Privileged Information Distillation for Language Models" (arXiv 2602.04942). One network is the teacher π_T, which
    reads private information at the beginning of its system prompt, and the student π_S, which does not. On answers of
    the teacher, with group advantages A and β = ``kl``,

        L_T = GRPO(π_T, A) + β KL( π_T ‖ sg π_S )            trained under the teacher's prompt
        L_S = GRPO(π_S, A; ratio π_S / sg π_T) + β KL( sg π_T ‖ π_S )       under the student's
        L   = alpha L_T + (1 − alpha) L_S

    with both KLs estimated at the sampled tokens: on the teacher's answers the second one's gradient is that of
    supervised fine-tuning. ``form`` "opsd", the paper's on-policy self-distillation: on the student's own answers
    L = GRPO(π_S, A) + β KL( π_S ‖ sg π_T ), the teacher's prompt is not trained.
    """

    name = "pi-distill"
    title = "Privileged Information Distillation (π-Distill)"
    source = "https://arxiv.org/abs/2602.04942"
    formula = "α [GRPO(π_T) + β KL(π_T ‖ sg π_S)] + (1−α) [GRPO(π_S/sg π_T) + β KL(sg π_T ‖ π_S)]"
    presets = {"joint": {}, "teacher": {"alpha": 1.0}, "student": {"alpha": 0.0}, "opsd": {"form": "opsd"}}

    rollouts: Rollouts = Rollouts(per_prompt=8)
    optimization: Optimization = Optimization(lr=1e-6, prompts=32)
    grpo: GRPOSettings = GRPOSettings()
    form: Literal["pi-distill", "opsd"] = "pi-distill"
    """The teacher writes and both are trained, or the student writes and is trained (the paper's OPSD)."""
    alpha: UnitInterval = 0.5
    """α, the teacher's share of the loss (1: the teacher alone, 0: the student alone)."""
    kl: NonNegativeFloat = 0.25
    """β, how near the two stay (paper: 0, 0.1, 0.25, 0.5; above 0 where alpha is)."""
    privilege: str = "solution"
    """The private field that the teacher reads."""
    place: Literal["system", "user"] = "system"
    """Where it reads it: at the beginning of the system prompt (paper), or with the question."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "pi-distill compares rollouts of one prompt: per_prompt must be at least 2",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        view = InSystem(self.privilege) if self.place == "system" else Field(self.privilege)
        return {TEACHER: Role(Live(), view, self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        writer = STUDENT if self.form == "opsd" else TEACHER
        return tools.sample(prompts, self.rollouts.per_prompt, role=writer)

    def updates(self, step: int) -> Sequence[Minibatch]:
        shares = {TEACHER: self.alpha, STUDENT: 1 - self.alpha}
        both = tuple(role for role, share in shares.items() if share)
        roles = (STUDENT,) if self.form == "opsd" else both
        return passes(
            self.optimization.update_epochs, self.optimization.minibatches, tuple(self.trained), roles
        )

    def terms(self, stats: Statistics) -> Iterable[Term]:
        if self.form == "opsd":
            yield from self.reinforced(stats, STUDENT, 1.0)
            yield from self.pulled(STUDENT, TEACHER, 1.0)
            return
        if self.alpha > 0:
            yield from self.reinforced(stats, TEACHER, self.alpha)
            yield from self.pulled(TEACHER, STUDENT, self.alpha)
        if self.alpha < 1:
            yield from self.reinforced(stats, STUDENT, 1 - self.alpha)
            if self.kl:
                # ∇ KL(sg π_T ‖ π_S) on the teacher's own tokens is −∇ log π_S, at the temperature they were drawn at.
                yield NegativeLogLikelihood(
                    name="imitate",
                    coefficient=(1 - self.alpha) * self.kl,
                    temperature=self.temperature,
                    mean_over="sequences",
                )

    def reinforced(self, stats: Statistics, role: str, share: float) -> Iterable[Term]:
        """GRPO of what was written, in the logits of ``role``."""
        yield self.grpo.term(f"policy/{role}", stats, role=role, coefficient=share, mean_over="sequences")

    def pulled(self, role: str, to: str, share: float) -> Iterable[Term]:
        """β KL(role ‖ sg to) on what the role wrote, by its policy gradient."""
        if self.kl:
            yield Sampled(
                name=f"stay/{role}",
                role=role,
                target=FromRole(to),
                coefficient=share * self.kl,
                mean_over="sequences",
            )
