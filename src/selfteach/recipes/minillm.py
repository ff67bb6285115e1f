"""The baseline that follows the policy gradient of the sequence's reverse KL (MiniLLM)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class MiniLLM(Recipe):
    """Lower the reverse KL of whole answers: of each token's own distribution, and of what it leads to.

    "MiniLLM: Knowledge Distillation of Large Language Models" (arXiv 2306.08543). With the teacher p, the student q and
    r_t = log p(y_t) − log q(y_t), answers are drawn token by token from p̃ = α p + (1 − α) q:

        ∇L = E_{y ~ p̃} Σ_t w_t [ ∇KL( q(·|y_<t) ‖ p(·|y_<t) ) − R_{t+1} ∇log q(y_t) ]
        w_t = q(y_t) / p̃(y_t),   R_{t+1} = mean of r over the tokens behind t

    The first part is exact over the vocabulary, the second is clipped as in PPO (ratio q/p̃). The paper's third part,
    a language-modeling loss on a pretraining corpus, is left out: a run reads one task.
    """

    name = "minillm"
    title = "MiniLLM: reverse KL by policy gradient"
    source = "https://arxiv.org/abs/2306.08543"
    formula = "Σ_t w KL(q_t ‖ p_t) − min( w R, clip(w) R ),  R = mean_{i>t} log p/q,  y ~ α p + (1−α) q"
    presets = {"paper": {}, "trl": {"teacher_mix": 0.0, "discount": 0.0, "return_from": "own"}}

    rollouts: Rollouts = Rollouts(max_tokens=512)
    optimization: Optimization = Optimization(lr=5e-6, prompts=64, steps=5000)
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    teacher_mix: UnitInterval = 0.2
    """α, how often a token of an answer is the teacher's draw (paper: 0.2; 0: the student writes alone)."""
    single_step: bool = True
    """Take a token's own part of the return exactly, as KL over the vocabulary (paper), or by its sample too."""
    return_from: Literal["next", "own"] = "next"
    """Where the return begins: behind the token, whose own part ``single_step`` takes exactly (paper), or with the
    token itself (TRL, beside single_step); without single_step with the token in any case."""
    length_normalization: bool = True
    """Divide the return by the sum of its tokens' weights (paper), or let long answers count more."""
    discount: UnitInterval = 1.0
    """γ: weight of each token further in the return (paper: 1; TRL: 0, nothing but the token itself)."""
    clip: OpenUnit = 0.2
    """Clip of the ratio q/p̃ in the second part: 1 ± clip."""
    mean_over: Literal["tokens", "rollouts"] = "tokens"
    """Mean over all tokens (released code), or token sums, mean over rollouts (the formula)."""

    def __post_init__(self) -> None:
        require(self.teacher_mix < 1, "teacher_mix must be below 1: the student has to write, too")
        require(
            self.teacher_mix == 0 or self.rollouts.top_p == 1,
            "top_p must be 1 where teacher and student write together: the importance weights know no nucleus",
        )
        require(
            self.teacher_mix == 0 or self.rollouts.top_k == 0,
            "top_k must be 0 where teacher and student write together: the importance weights know no cut",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if self.teacher_mix == 0:
            return tools.sample(prompts, self.rollouts.per_prompt)
        shares = {TEACHER: self.teacher_mix, STUDENT: 1 - self.teacher_mix}
        each = [prompt for prompt in prompts for _ in range(self.rollouts.per_prompt)]
        return tools.mix(each, shares, temperature=self.temperature, top_k=self.rollouts.top_k)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        student, writer = stats.old_log_prob(), self.writer(stats)
        yield PolicyGradient(
            name="long",
            advantage=self.to_come(stats, stats.log_prob(TEACHER) - student),
            behavior=writer,
            clip=(self.clip, self.clip),
            informed_by={TEACHER: "sampled"},
            mean_over=self.mean_over,
        )
        if self.single_step:
            yield Match(
                name="single",
                target=FromRole(TEACHER),
                divergence=ReverseKL(),
                weight=(student - writer).exp(),
                mean_over=self.mean_over,
            )

    def writer(self, stats: Statistics) -> Float[Tensor, "N T"]:
        """[N, T] log p̃ (nats) of the tokens."""
        if self.teacher_mix == 0:
            return stats.old_log_prob()
        teacher, student = stats.log_prob(TEACHER), stats.old_log_prob()
        return torch.logaddexp(teacher + math.log(self.teacher_mix), student + math.log1p(-self.teacher_mix))

    def to_come(self, stats: Statistics, reward: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """[N, T] R_{t+1}, the rewards (nats) behind each token, or R_t, its own included (``return_from``)."""
        seen = stats.seen(TEACHER)
        total, count = (stats.to_go(x, self.discount, seen) for x in (reward, torch.ones_like(reward)))
        if self.single_step and self.return_from == "next":
            total, count = total - reward, count - 1
        if not self.length_normalization:
            return total
        return torch.where(count > 0, total / count.masked_fill(count == 0, 1.0), 0.0)
