"""What the user said next tells which words of an answer were good (learning from user interactions)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from selfteach.recipes.kit import *

HINDSIGHT = (
    "{problem}\n\n"
    "--- seen in hindsight ---\n"
    "An earlier answer to this did not satisfy the user, who then wrote what follows. Answer so that it need not be "
    "written.\n{followup}"
)

COMMENTED = "\n\n--- seen in hindsight ---\nAn earlier answer to this was given this comment:\n{feedback}"


@settings
class UserInteractions(Recipe):
    """Re-score an answer with the user's next message in view, and move towards what hindsight makes likelier.

    "Aligning Language Models from User Interactions" (arXiv 2603.12273). For context x, answer y and follow-up o, under
    the present weights π and without gradient,

        A_t = log π(y_t | x, o, y_<t) − log π(y_t | x, y_<t)

    ``follow_up`` "logged": answers and follow-ups are the data's, and L = mean over answers of
    (1/|y|) Σ_{t > skip} −A_t log π(y_t). "feedback": the student answers, the verifier's words are the follow-up, A_t
    is centered within the answer, and L = mean over answers of (1/|y|) Σ_t −min( ρ A_t, clip(ρ) A_t ). In expectation
    over y ~ π the gradient of the first, all tokens counting, is that of KL( π(·|x) ‖ sg π(·|x, o) ). Centering takes a
    token's own advantage off as well: of an answer of n tokens (n − 1)/n of it is left, of a single token nothing.
    """

    name = "user-interactions"
    title = "Aligning Language Models from User Interactions"
    source = "https://arxiv.org/abs/2603.12273"
    formula = "mean_y (1/|y|) Σ_t −[ log π(y_t|x,o) − log π(y_t|x) ] log π(y_t|x)"
    presets = {
        "offline": {},
        "online": {
            "follow_up": "feedback", "skip": 0, "lr": 5e-6, "schedule": "constant", "warmup": 0, "prompts": 32,
            "max_grad_norm": 1.0,
        },
    }  # fmt: skip

    rollouts: Rollouts = Rollouts(max_tokens=2048)
    optimization: Optimization = Optimization(
        optim="adamw_8bit", lr=2e-6, prompts=128, schedule="cosine", warmup=11, steps=220, max_grad_norm=10.0
    )
    student_thinking: bool | None = False
    """Thinking flag of the chat template: off in the paper."""
    follow_up: Literal["logged", "feedback"] = "logged"
    """Whose words are the hindsight: the data's fields ``response`` and ``followup``, or the verifier's feedback on a
    fresh answer."""
    clip_low: OpenUnit = 0.2
    """Lower clip of the ratio ρ = π / π_sampling, of fresh answers: 1 − clip_low."""
    clip_high: PositiveFloat = 0.2
    """Upper clip of the ratio: 1 + clip_high."""
    skip: NonNegativeInt = 2
    """Tokens at an answer's beginning that are not trained on (main script: 2; the code's default: 0)."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        view: View = Field("followup", HINDSIGHT.replace("{", "{{").replace("}", "}}"))
        if self.follow_up == "feedback":
            view = Reprompt(sibling=False, feedback="always", feedback_section=COMMENTED)
        return {TEACHER: Role(Live(), view, self.student_thinking, signal="sampled")}

    @property
    def temperature(self) -> float:
        """1 where answers are the data's: nothing is sampled."""
        return 1.0 if self.follow_up == "logged" else self.rollouts.temperature

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if self.follow_up == "logged":
            return tools.quote(prompts, "response")
        return tools.sample(prompts, self.rollouts.per_prompt)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        where = behind(stats, self.skip) & stats.seen(TEACHER)
        hindsight = torch.where(stats.seen(TEACHER), stats.log_prob(TEACHER), 0.0)
        informed: Mapping[str, Signal] = {TEACHER: "sampled"}
        if self.follow_up == "logged":
            yield PolicyGradient(
                name="hindsight",
                advantage=LogRatio(hindsight, temperature=self.temperature),
                where=where,
                mean_over="sequences",
                informed_by=informed,
            )
            return
        gained = torch.where(where, hindsight - stats.old_log_prob(), 0.0)
        centered = gained - stats.sequence_mean(gained, where).unsqueeze(1)
        yield PolicyGradient(
            name="hindsight",
            advantage=centered,
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            where=where,
            mean_over="sequences",
            informed_by=informed,
        )


def behind(stats: Statistics, skip: int) -> Bool[Tensor, "N T"]:
    """[N, T] bool: the written tokens but for the first ``skip`` of each row."""
    return stats.mask & (stats.mask.cumsum(dim=1) > skip)
