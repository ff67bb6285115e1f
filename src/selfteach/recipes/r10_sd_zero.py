"""Self-distillation zero (SD-Zero): learn to revise, then distill the reviser into the first try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from selfteach.recipes.kit import *

Losses = Literal["both", "generate", "revise"]
Mean = Literal["rollouts", "sequences", "tokens"]


@settings
class SelfRevision(Recipe):
    """Phase 1 of SD-Zero (SRT): imitate one's own drafts with those revisions of them that turned out right.

    A row is [y_init, P_r, y_rev] after the prompt x; P_r says whether the draft was right; y_rev verified. Two sums of
    −log p: over the whole row (``generate``, L_gen) and over the revision (``revise``, L_rev), so that L_gen − L_rev is
    the negative log-likelihood of draft and phrase.
    """

    title = "Self-Revision Training"
    source = "https://arxiv.org/abs/2604.12002"
    formula = "−log π([y_init, P_r, y_rev] | x) − log π(y_rev | x, y_init, P_r)"
    marks = ("revision",)

    revisions: PositiveRows = 3
    """Revisions written of each draft; the wrong ones are thrown away."""
    losses: Losses = "both"
    """Which of the two sums counts."""
    mean_over: Mean = "rollouts"
    """Token sums, mean over rows; or mean of token means; or mean over all tokens."""

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """Each draft with the phrase that says whether it was right, and its verified revisions."""
        drafts = tools.grade(tools.sample(prompts, self.rollouts.per_prompt))
        begun = [one for draft in drafts if (one := tools.begin(draft, Revision()))]
        revised = tools.grade(tools.sample(begun, self.revisions), last=True)
        return [one.marked_last("revision") for one in revised if one.right]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        if self.losses != "revise":
            yield NegativeLogLikelihood(name="generate", mean_over=self.mean_over)
        if self.losses != "generate":
            yield NegativeLogLikelihood(name="revise", where=stats.mark("revision"), mean_over=self.mean_over)


@settings
class SDZero(Recipe):
    """Learn to revise, then pull the first try to what the reviser would have written.

    "Self-Distillation Zero" (arXiv 2604.12002). Phase 1 is ``SelfRevision``. In phase 2 the student π answers
    x; the answer y is verified; the teacher, the weights at the end of phase 1, reads x, the whole of y and the phrase
    P_r that says whether y was right, all in one assistant's turn, and scores the same tokens once more:

        L = mean over rollouts of Σ_t Σ_v π(v) log( π(v) / π_SRT(v | x, y, P_r, y_<t) )

    Reverse KL in nats, on the student's ``loss_top_k`` tokens and one more entry for the rest, gradient through π only.
    The reward is seen by the choice of P_r alone: neither solutions nor a policy gradient are needed.
    """

    name = "sd-zero"
    title = "Self-Distillation Zero"
    source = "https://arxiv.org/abs/2604.12002"
    formula = "mean_y Σ_t KL( π(·|x, y_<t) ‖ π_SRT(·|x, y, P_r, y_<t) )"
    sizes = {**Recipe.sizes, "srt_steps": "steps", "srt_drafts": "stored", "sync_every": "schedule"}
    presets = {
        "paper": {},
        "iterated": {"sync_every": 400},
        "trl": {"temperature": 1.0, "srt_steps": 0, "loss_top_k": None, "mean_over": "tokens"},
    }

    rollouts: Rollouts = Rollouts(temperature=0.7, max_tokens=16384)
    optimization: Optimization = Optimization(lr=5e-6, schedule="cosine", steps=562, prompts=16)
    student_thinking: bool | None = False
    """Thinking flag of the chat template: the paper's models do not think."""
    srt_steps: NonNegativeInt = 375
    """Steps of phase 1 (0: none, the model given was trained to revise already; or the paper's ablation). Not stated:
    one pass over the paper's 6k revisions and 9k prompts in batches of 16."""
    srt_drafts: PositiveRows = 10000
    """Prompts of phase 1, each with one draft."""
    revisions: PositiveRows = 3
    """Revisions written of each draft; only verified ones are imitated."""
    srt_losses: Losses = "both"
    """Phase 1 imitates the whole text and the revision once more (both, paper), or one of the two (its ablations)."""
    sync_every: NonNegativeInt = 0
    """Steps between copies of the student to the teacher (0: frozen; the paper's iterated run: one, at about 400)."""
    loss_top_k: PositiveInt | None = 64
    """Compare on the student's k likeliest tokens and a bucket for the rest (paper: 64, whose and how it does not say;
    none: full vocabulary)."""
    loss_temperature: PositiveFloat | None = 1.0
    """Temperature of both softmaxes in the loss (1: the formula as it stands; none: the sampling temperature)."""
    mean_over: Mean = "rollouts"
    """Of both phases: token sums, mean over rollouts (paper); mean of token means; or mean over all tokens."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.stored == 0,
            "sd-zero distills on fresh answers: stored must be 0 (srt_drafts is what phase 1 stores)",
        )

    @property
    def stages(self) -> Mapping[str, Recipe]:
        if self.srt_steps == 0:
            return {"distill": self}
        revise = SelfRevision(
            rollouts=replace(self.rollouts, stored=self.srt_drafts),
            optimization=replace(self.optimization, steps=self.srt_steps),
            adapter=self.adapter,
            student_thinking=self.student_thinking,
            revisions=self.revisions,
            losses=self.srt_losses,
            mean_over=self.mean_over,
        )
        return {"revise": revise, "distill": self}

    @property
    def teachers(self) -> Mapping[str, Role]:
        weights = Lagged(self.sync_every) if self.sync_every else Frozen()
        return {TEACHER: Role(weights, Revision(), self.student_thinking)}

    @property
    def temperature(self) -> float:
        return self.loss_temperature or self.rollouts.temperature

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=ReverseKL(),
            support=likeliest(self.loss_top_k, of="student"),
            mean_over=self.mean_over,
        )
