"""Variational policy distillation (VPD): the teacher that reads the feedback is trained too, on outcomes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from selfteach.recipes.kit import *

SAID = "\n\nWhat was said of an earlier attempt:\n\n{feedback}"
CRITIQUE = (
    "{problem}\n\n"
    "An attempt to answer this follows between the markers.\n"
    "--- attempt ---\n{attempt}\n--- end of attempt ---\n\n"
    "Judge it step by step: which steps hold, where the first mistake is, if there is one, and what to do instead. "
    "Do not write a solution of your own."
)


@settings
class VPD(Recipe):
    """Train the teacher to read feedback (E-step) every few times that the student is pulled to it (M-steps).

    "Learning from Language Feedback via Variational Policy Distillation" (arXiv 2605.15113). The teacher q is the
    student π behind a prompt with feedback C on the rollout: the same weights. The optimal policy π* ∝ π exp(r/β) is
    approached from both sides: E minimizes KL(q ‖ π*), M minimizes KL(π ‖ q). With ρ = β log q(y|x,C)/π(y|x) of a
    whole rollout, π held constant, and δ midway between the means of ρ over right (y⁺) and wrong (y⁻) rollouts,

        L_E = −E_{y⁺} log σ(ρ − δ) − E_{y⁻} log σ(δ − ρ)             trained under the teacher's prompt
        L_M = E_{y ~ π} Σ_t KL( π(·|x, y<t) ‖ sg q(·|x, C, y<t) )      under the student's

    Every ``expectation_every``-th batch, the first included, makes an update on L_E before those on L_M. Without
    E-steps this is SDPO with a live teacher. Rollouts without feedback count nowhere.
    """

    name = "vpd"
    title = "Variational Policy Distillation"
    source = "https://arxiv.org/abs/2605.15113"
    formula = (
        "E: BCO of β log q(y|x,C)/π(y|x);  M: Σ_t KL( π(·|x,y<t) ‖ sg q(·|x,C,y<t) ) on the top K + tail"
    )
    presets = {
        "paper": {},
        "critique": {"feedback_from": "critique", "sibling": False},
        "fixed-prior": {"prior": "initial"},
    }
    sizes = {**Recipe.sizes, "critique_tokens": "tokens"}

    rollouts: Rollouts = Rollouts(per_prompt=8, max_tokens=8192)
    optimization: Optimization = Optimization(lr=1e-6)
    student_thinking: bool | None = False
    """Thinking flag of all chat templates."""
    expectation_every: PositiveInt | None = 5
    """F: every so many batches the teacher is trained first (paper: 5; 1 is volatile, 10 stale; none: never)."""
    beta: PositiveFloat = 0.1
    """β, the scale of the teacher's implicit reward: how near it stays to the prior."""
    prior: Literal["student", "initial"] = "student"
    """What the teacher's implicit reward is measured against: the present student (paper), or the weights that
    training began with (its ablation)."""
    sibling: bool = True
    """Feedback is, among others, the first other right answer of the rollout's group."""
    feedback_from: Literal["verifier", "critique", "both", "never"] = "verifier"
    """What is said of the rollout: the verifier's text, the model's own critique of it, or both."""
    critique_tokens: PositiveInt = 512
    """Longest critique, in tokens."""
    student_top_k: PositiveInt | None = 100
    """Compare on the student's k likeliest tokens (none: full vocabulary)."""
    tail: Tail = "bucket"
    """What becomes of the mass outside these: one bucket, both sides renormalized, or dropped."""
    mean_over: Literal["rollouts", "tokens"] = "rollouts"
    """The M-step's mean: of each rollout's sum over its tokens (the formula), or over all tokens (SDPO's)."""

    def __post_init__(self) -> None:
        told = self.feedback_from != "never"
        require(
            self.sibling or told, "the teacher would read the bare question: set sibling, or feedback_from"
        )
        require(told or self.rollouts.per_prompt >= 2, "siblings need per_prompt of at least 2")
        require(
            self.tail != "renormalize" or self.student_top_k != 1,
            "one token renormalized has probability 1 on both sides: the loss is always 0",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        said: Literal["always", "never"] = "never" if self.feedback_from == "never" else "always"
        view = Reprompt(self.sibling, said, feedback_section=SAID)
        teacher = {TEACHER: Role(Live(), view, self.student_thinking)}
        if self.prior == "student" or self.expectation_every is None:
            return teacher
        return teacher | {REFERENCE: Role(Frozen(), Plain(), self.student_thinking, signal="sampled")}

    def expects(self, step: int) -> bool:
        """Whether the batch begins with an E-step."""
        return self.expectation_every is not None and step % self.expectation_every == 0

    def active(self, step: int) -> Collection[str]:
        return tuple(self.teachers) if self.expects(step) else (TEACHER,)

    def updates(self, step: int) -> Sequence[Minibatch]:
        maximization = super().updates(step)
        if not self.expects(step):
            return maximization
        later = [replace(one, epoch=one.epoch + 1) for one in maximization]
        return (Minibatch(trains=tuple(self.trained), roles=(TEACHER,)), *later)

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.sample(prompts, self.rollouts.per_prompt)
        if self.feedback_from in ("verifier", "never"):
            return written
        return self.criticized(tools, tools.grade(written))

    def criticized(self, tools: Tools, written: Sequence[Trajectory]) -> list[Trajectory]:
        """The rollouts with the model's own words on each as its feedback, behind the verifier's if both are wanted."""
        asked = [i for i, one in enumerate(written) if one.text.strip()]
        attempts = [with_attempt(written[i]) for i in asked]
        view = Field("attempt", CRITIQUE.replace("{", "{{").replace("}", "}}"))
        found = tools.sample(attempts, view=view, max_tokens=self.critique_tokens)
        critiques = {i: one.text for i, one in zip(asked, found, strict=True)}
        told = []
        for i, one in enumerate(written):
            assert one.grade is not None
            said = (one.grade.feedback if self.feedback_from == "both" else None, critiques.get(i))
            told.append(one.graded(replace(one.grade, feedback="\n\n".join(filter(None, said)) or None)))
        return told

    def terms(self, stats: Statistics) -> Iterable[Term]:
        if stats.update.roles == (TEACHER,):
            yield self.expectation(stats)
            return
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=ReverseKL(),
            support=likeliest(self.student_top_k, "student", self.tail),
            mean_over="rollouts" if self.mean_over == "rollouts" else "selected",
        )

    def expectation(self, stats: Statistics) -> Term:
        """L_E over the rollouts whose feedback the teacher sees."""
        prior = STUDENT if self.prior == "student" else REFERENCE
        told = stats.mask.any(dim=1) & stats.available(TEACHER) & stats.available(prior)
        unit, good = units_of(told), stats.correct[told]
        sums, before = (stats.unit_sum(unit, role) for role in (TEACHER, prior))
        for kind, which in (("right", good), ("wrong", ~good)):
            if which.any():
                stats.report(f"implicit_reward/{kind}", self.beta * (sums - before)[which].mean())
        informed: Mapping[str, Signal] = {prior: "sampled"}
        return SequenceTerm(
            name="expect",
            role=TEACHER,
            unit=unit,
            sums=sums,
            function=bco(good, before, beta=self.beta),
            informed_by=informed,
        )


def with_attempt(one: Trajectory) -> Prompt:
    """The rollout's prompt, with its text as the private field "attempt"."""
    private = {**one.example.private, "attempt": one.text}
    return Prompt(replace(one.example, private=private), one.prompt_ids, one.group)
