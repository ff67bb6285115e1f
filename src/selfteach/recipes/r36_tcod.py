"""On-policy distillation of episodes whose depth grows as training goes on (TCOD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *


@settings
class TCOD(Recipe):
    """Show the student few turns of an episode at first and more from step to step, so that its errors do not compound.

    "TCOD: Exploring Temporal Curriculum in On-Policy Distillation for Multi-turn Autonomous Agents" (arXiv 2604.24005).
    At step n = 1, 2, 3 … the depth is k = ``start_turns`` + ⌊n/η⌋. Front to back ("f2b"): an episode ends after k
    turns. Back to front ("b2f"): of an expert's L turns the first max(0, L − k) are replayed, without gradient, and the
    student goes on to the end; an episode that ends while it is replayed is dropped. On the student's own tokens, with
    a teacher π_T behind the same context and A_t = log π_T(y_t) − log π_old(y_t) (no gradient),

        L = mean over turns of (1/|turn|) Σ_t −min( ρ A_t, clip(ρ) A_t )

    whose expected gradient at ρ = 1 is that of KL(π ‖ π_T): what the released code computes. The paper writes
    KL(π_T ‖ π), which ``loss`` "forward-kl" takes over the vocabulary. No reward enters.
    """

    name = "tcod"
    title = "Temporal Curriculum On-Policy Distillation"
    source = "https://arxiv.org/abs/2604.24005"
    formula = "mean_turn (1/|turn|) Σ_t −min( ρ A, clip(ρ) A ),  A = log π_T/π_old,  turns ≤ k_1 + ⌊n/η⌋"
    plays = True
    sizes = {**Recipe.sizes, "eta": "schedule"}
    presets = {
        "f2b": {},
        "b2f": {"curriculum": "b2f", "eta": 5, "mean_over": "tokens"},
        "webshop": {"eta": 4, "max_turns": 15, "steps": 150},
        "opd": {"curriculum": "none", "mean_over": "tokens"},
    }

    rollouts: Rollouts = Rollouts(max_tokens=512, max_turns=30)
    optimization: Optimization = Optimization(lr=1e-6, prompts=16, steps=250)
    teacher: str = "Qwen/Qwen2.5-7B-Instruct"
    """Who is distilled (paper: one reinforced in the domain): a folder, a hub id or arena:NAME."""
    curriculum: Literal["f2b", "b2f", "none"] = "f2b"
    """Cut episodes behind the first turns, begin them behind an expert's, or neither (the baseline OPD)."""
    start_turns: PositiveInt = 1
    """Depth that the schedule starts from, in turns."""
    eta: PositiveInt = 6
    """η, steps until episodes are a turn deeper (paper: 2, ablated to 6; released settings: 6, 5 and 4)."""
    reference: str = "solution"
    """The private field with an expert's turns, a JSON list of texts (b2f)."""
    loss: Literal["k1", "forward-kl"] = "k1"
    """The reverse KL at the sampled token (released code), or the forward KL over the vocabulary (paper's text)."""
    mean_over: Literal["turns", "tokens"] = "turns"
    """Mean of each turn's token mean (released f2b, against turns that shrink), or over all tokens (b2f, OPD)."""
    clip_low: OpenUnit = 0.2
    """Lower clip of the ratio ρ = π / π_sampling: 1 − clip_low."""
    clip_high: PositiveFloat = 0.2
    """Upper clip of the ratio: 1 + clip_high."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        signal: Literal["full", "sampled"] = "sampled" if self.loss == "k1" else "full"
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking, signal=signal)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        turns = depth(step + 1, self.start_turns, self.eta)
        if self.curriculum == "b2f":
            return self.gone_on(tools, prompts, turns)
        most = self.rollouts.max_turns
        shown = min(turns, most) if self.curriculum == "f2b" else most
        return tools.play(prompts, self.rollouts.per_prompt, max_turns=shown)

    def gone_on(self, tools: Tools, prompts: Sequence[Prompt], turns: int) -> list[Trajectory]:
        """Episodes behind an expert's turns but for the last ``turns``; at most ``max_turns`` long, the expert's
        included."""
        openings = [replayed(turns_of(one.example, self.reference), turns) for one in prompts]
        most, written = self.rollouts.max_turns, list[Trajectory]()
        require(
            min(map(len, openings), default=0) < most,
            f"max_turns {most} is used up by every replay: raise it above an expert's turns less {turns}",
        )
        for length in sorted({len(one) for one in openings}):
            alike = [i for i, one in enumerate(openings) if len(one) == length]
            written += tools.play(
                [prompts[i] for i in alike],
                self.rollouts.per_prompt,
                max_turns=max(0, most - length),
                opening=[openings[i] for i in alike],
            )
        return [one for one in written if any(one.mask)]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        per: Divisor | Reduction = Divisor("written", "turn") if self.mean_over == "turns" else "tokens"
        seen = stats.seen(TEACHER)
        gap = torch.where(seen, stats.log_prob(TEACHER) - stats.old_log_prob(), 0.0)
        report(stats, -gap)
        if self.loss == "forward-kl":
            yield Match(name="distill", target=FromRole(TEACHER), divergence=ForwardKL(), mean_over=per)
            return
        informed: Mapping[str, Signal] = {TEACHER: "sampled"}
        yield PolicyGradient(
            name="distill",
            advantage=gap,
            behavior=stats.behavior_log_prob,
            clip=(self.clip_low, self.clip_high),
            mean_over=per,
            informed_by=informed,
        )


def depth(n: int, first: int, eta: int) -> int:
    """Turns that the student may take at its ``n``-th step, n = 1, 2, 3 …: first + ⌊n/η⌋."""
    return first + n // eta


def replayed(expert: Sequence[str], turns: int) -> Sequence[str]:
    """The expert's turns but for the last ``turns``: what is played before the student goes on."""
    return expert[: max(0, len(expert) - turns)]


def report(stats: Statistics, kl: Float[Tensor, "N T"]) -> None:
    """The mean over trajectories of Σ_t (log π − log π_T) in nats: in all, and of each turn (from 0), over those that
    have it."""
    seen, turn = stats.seen(TEACHER), stats.turn
    for name, where in (
        ("kl/trajectory", seen),
        *((f"kl/turn/{int(u)}", seen & (turn == u)) for u in turn[seen].unique()),
    ):
        has = stats.trajectory_sum(where.any(dim=1).to(kl.dtype)) > 0
        total = stats.trajectory_sum(torch.where(where, kl, 0.0).sum(dim=1))
        if (counted := has & stats.first_rows).any():
            stats.report(name, total[counted].mean())
