"""Several teachers debate a prompt before they score the student's own answer to it (MAD-OPD, OPAD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *

LETTERS = "ABCD"


@settings
class MADOPD(Recipe):
    """Let teachers debate, blind to the student's answer, and mix their divergences from it by how sure they are.

    "MAD-OPD: Breaking the Ceiling in On-Policy Distillation via Multi-Agent Debate" (arXiv 2605.01347). K teachers
    answer the prompt by themselves, then R − 1 times in view of all that was said; H is the transcript, N_k what each
    says at last of its confidence. With the student p on its own answer and teacher k, q_k, behind prompt, role and H,

        L = mean over answers of (1/|y|) Σ_t Σ_k w_k JSD_β( q_k ‖ p ),    w = softmax_k( N_k / 100 / τ )

    over the full vocabulary; β = 0 is KL(q‖p), 1 KL(p‖q). Where a confidence is missing all weigh alike; a teacher that
    cannot read a row leaves its weight to the others. In an environment (OPAD) the student plays whole episodes, each
    turn is an answer of its own, and the debate is held anew behind what had been said and observed before it. Answers
    that repeat themselves are dropped.
    """

    name = "mad-opd"
    title = "On-Policy Distillation via Multi-Agent Debate"
    source = "https://arxiv.org/abs/2605.01347"
    formula = "mean_y (1/|y|) Σ_t Σ_k w_k JSD_β(q_k(·|x, H, y_<t) ‖ p),  w = softmax(N/100τ)"
    plays = True
    sizes = {**Recipe.sizes, "debate_tokens": "tokens"}
    numbers = {f"confidence-{one}": "row" for one in LETTERS}
    presets = {
        "agent": {},
        "code": {"beta": 1.0, "max_tokens": 16384},
        "mt-opd": {"rounds": 0},
        "opd": {"rounds": 0, "experts": ("Qwen/Qwen3-14B",)},
    }

    rollouts: Rollouts = Rollouts(temperature=0.7, top_p=0.8, top_k=20, max_tokens=4096)
    optimization: Optimization = Optimization(
        lr=1e-5, prompts=128, steps=125, schedule="cosine", warmup=6, weight_decay=0.01
    )
    student_thinking: bool | None = False
    """Thinking flag of the chat template, of student and teachers alike: off in the paper."""
    experts: tuple[str, ...] = ("Qwen/Qwen3-14B", "Qwen/Qwen3-8B")
    """The teachers, one to four models of the student's tokenizer: folders, hub ids or arena:NAME."""
    debate: Debate = Debate()
    weighting: Literal["confidence", "equal"] = "confidence"
    """Weigh teachers by the confidence that they state after the debate, or alike (ablation)."""
    tau: PositiveFloat = 1.0
    """τ, temperature of the weights' softmax."""
    beta: UnitInterval = 0.5
    """β of the generalized JSD: 0 forward KL, 1 reverse KL (paper: 0.5 for agents, 1 for code)."""
    teacher_top_k: PositiveInt | None = None
    """Compare on a teacher's k likeliest tokens, both sides rescaled to sum to 1 there (none: the full vocabulary)."""
    mean_over: Literal["sequences", "tokens"] = "sequences"
    """Mean of per-answer token means (paper), or mean over all tokens."""
    max_repetition: UnitInterval = 0.6
    """Answers of which a larger share of token 3-grams repeats an earlier one are dropped (1: none is)."""

    def __post_init__(self) -> None:
        require(
            1 <= len(self.experts) <= len(LETTERS),
            f"experts must name 1 to {len(LETTERS)} models, got {len(self.experts)}",
        )

    @property
    def letters(self) -> dict[str, str]:
        """The experts' letters by the names of their roles."""
        single = len(self.experts) == 1
        return {TEACHER if single else f"{TEACHER}-{one}": one for one in LETTERS[: len(self.experts)]}

    @property
    def rated(self) -> bool:
        """Whether it matters how sure they are."""
        return self.debate.rounds > 0 and self.weighting == "confidence" and len(self.experts) > 1

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {
            name: Role(External(model), self.debate.view(letter), self.student_thinking)
            for (name, letter), model in zip(self.letters.items(), self.experts, strict=True)
        }

    @property
    def temperature(self) -> float:
        return 1.0  # of the loss, whatever the temperature of the sampling

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        played = enumerate(tools.play(prompts, self.rollouts.per_prompt))
        turns = [row for i, one in played for row in replace(one, trajectory=i).turns_apart().rows()]
        kept = [one for one in turns if any(one.mask) and repetition(one.ids) <= self.max_repetition]
        return self.debate.held(tools, kept, self.letters, rated=self.rated) if self.debate.rounds else kept

    def terms(self, stats: Statistics) -> Iterable[Term]:
        shares = self.shares(stats)
        taught = shares.sum(dim=0) > 0
        rows, length = taught.any(dim=1).sum().clamp(min=1), taught.sum(dim=1).clamp(min=1)
        by_row = self.mean_over == "sequences"
        for (name, letter), share in zip(self.letters.items(), shares, strict=True):
            yield Match(
                name="distill" if name == TEACHER else f"distill-{letter}",
                target=FromRole(name),
                divergence=gkd_jsd(self.beta),
                support=likeliest(self.teacher_top_k, "teacher", "renormalize"),
                weight=share / length.unsqueeze(1) if by_row else share,
                # One divisor for all of them: a teacher that cannot read a row leaves it to the others.
                mean_over=float(rows) if by_row else taught,
            )

    def shares(self, stats: Statistics) -> Float[Tensor, "K N T"]:
        """[K, N, T] what each teacher counts at a token: 0 where it sees nothing, in sum 1 where any does."""
        share = torch.stack([stats.seen(name) for name in self.letters]).to(stats.dtype)
        if self.rated:
            sure = torch.stack([stats.number(f"confidence-{one}") for one in self.letters.values()])
            share = share * weights(sure, self.tau).unsqueeze(-1)
        return share / share.sum(dim=0).clamp(min=torch.finfo(share.dtype).tiny)


def weights(sure: Float[Tensor, "K N"], tau: float) -> Float[Tensor, "K N"]:
    """[K, N] softmax over K of N/100/τ; 1/K where any of a row's K confidences was not stated (below 0). ValueError if
    one is NaN or infinite."""
    if not sure.isfinite().all():
        raise ValueError(f"a teacher's confidence is {float(sure[~sure.isfinite()][0])} at some row")
    known = (sure >= 0).all(dim=0)
    return (torch.where(known, sure, 0.0) / 100 / tau).softmax(dim=0)


def repetition(ids: Sequence[int], n: int = 3) -> float:
    """Share of a text's n-grams of tokens that repeat an earlier one; 0 of a text with none."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
