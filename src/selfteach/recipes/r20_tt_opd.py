"""TT-OPD: reinforcement with a length-shaped reward beside distillation from a copy that is told how it came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from selfteach.recipes.kit import *

RIGHT = "(The answer that follows is sound. Think of other ways to reach it, too.)"
WRONG = "(The answer that follows is not right. Look again at what it assumes and at each of its steps.)"
GRAM, LETTERS = 4, 5
"""Tokens of the pieces by which repetition is told, and characters that count as one token of an answer's length."""
AS_RUN = {
    "weights": "frozen", "right_hint": "", "wrong_hint": "", "flip": True, "clip_distill": True, "kl": 0.01,
}  # fmt: skip


@settings
class TTOPD(Recipe):
    """Reinforce short right answers, and stay near a teacher: an average of the student that reads a hint by outcome.

    "Healthcare AI GYM for Medical Agents" (arXiv 2605.02943; turn-level truncated on-policy distillation). With the
    student π, the teacher q, l_t = log π(y_t) − log q(y_t) and the advantage A of a reward that falls with length,

        L = L_GRPO(A) + λ · (1/n) Σ_t −a_t log π(y_t),   a_t = −l_t, held constant

    over all n written tokens; without ``flip`` its expectation has the gradient of λ KL(π‖q) at sampled prefixes.
    Preset "described" is the method of the paper: q = EMA(π), read anew every 30 steps, behind a hint that says whether
    the rollout was right. By its authors' own audit no run behind a published number was that: preset "as-run" is what
    ran. There q is the initial model without a hint, l_t changes its sign in rollouts of negative advantage, PPO's clip
    stands around it, all turns count, and a KL to the same initial model (k3) stands beside. Later runs kept the
    half of the positions that q finds likeliest ("as-run-half"). Here the half is each row's; of degenerate answers
    only repetition is told; format and invalid calls enter by the task's reward alone; no EMA waits for validation.
    """

    name = "tt-opd"
    title = "Turn-level Truncated On-Policy Distillation"
    source = "https://arxiv.org/abs/2605.02943"
    formula = "L_GRPO(R_cos) + λ mean_t l_t log π(y_t),  l_t = log π(y_t) − log q(y_t|hint)"
    plays = True
    numbers = {"fives": "row", "distinct": "row"}
    presets = {
        "described": {}, "as-run": AS_RUN, "as-run-half": {**AS_RUN, "top_share": 0.5},
        "phase-out": {"phase_out": True, "distill_weight": 2.0},
    }  # fmt: skip

    rollouts: Rollouts = Rollouts(per_prompt=3, max_tokens=12288, max_turns=5)
    optimization: Optimization = Optimization(lr=1e-6, prompts=8, steps=60, schedule="cosine", warmup=10)
    grpo: GRPOSettings = GRPOSettings()
    shape: CosineReward = CosineReward()
    longest: PositiveInt | None = None
    """T of the reward, in tokens of five characters (none: max_tokens; paper: 12288, both)."""
    min_distinct: UnitInterval = 0.5
    """Share of different 4-grams of tokens below which a rollout repeats itself: it has advantage 0, and its group's
    mean and deviation are the others' (0: none does)."""
    distill_weight: NonNegativeFloat = 4.0
    """λ, weight of the distillation (paper: 4, later 2; 0: none)."""
    phase_out: bool = False
    """Lower λ as the student leaves the teacher (later runs)."""
    gate: KLGate = KLGate()
    weights: Literal["ema", "frozen"] = "ema"
    """Whose scores teach: an average of the student (as described), or the initial policy's (as it ran)."""
    ema_decay: UnitInterval = 0.995
    """α of θ_T ← α θ_T + (1 − α) θ (as described: 0.995)."""
    ema_every: PositiveInt = 5
    """Optimizer steps between two of these (as described: 5)."""
    copy_every: NonNegativeInt = 30
    """Optimizer steps between two copies θ_T ← θ (as described: 30; 0: never)."""
    right_hint: str = RIGHT
    """What the teacher is told before a rollout that was right (empty: nothing)."""
    wrong_hint: str = WRONG
    """What it is told before one that was wrong (empty: nothing)."""
    first_turns: NonNegativeInt = 0
    """K: only so many first turns are distilled (0: all, as in every run)."""
    flip: bool = False
    """Move away from the teacher, not to it, in rollouts of negative advantage (as it ran)."""
    top_share: PositiveUnit = 1.0
    """Share of a row's tokens that is distilled, those that the teacher finds likeliest (later runs: 0.5)."""
    clip_distill: bool = False
    """Clip the distillation's ratio as the policy gradient's (as it ran), or take the plain gradient."""
    kl: NonNegativeFloat = 0.0
    """Coefficient of the KL to the initial policy (as it ran: 0.01; 0: no reference is scored)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "tt-opd compares rollouts of one prompt: per_prompt must be at least 2",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        average = EMA(self.ema_decay, self.ema_every, self.copy_every, from_start=True)
        weights, view = average if self.weights == "ema" else Frozen(), Hint(self.right_hint, self.wrong_hint)
        found: dict[str, Role] = {}
        if self.distill_weight or self.phase_out:
            shown: View = view if self.right_hint or self.wrong_hint else Plain()
            found[TEACHER] = Role(weights, shown, self.student_thinking, signal="sampled")
        if self.kl:
            found[REFERENCE] = Role(Frozen(), Plain(), self.student_thinking, signal="sampled")
        return found

    @property
    def controllers(self) -> Mapping[str, ControllerSpec]:
        return {"distill_weight": self.gate.of(self.distill_weight)} if self.phase_out else {}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.grade(tools.play(prompts, self.rollouts.per_prompt))
        return [
            one.with_numbers(fives=len(tools.text(own(one))) / LETTERS, distinct=distinct(own(one)))
            for one in written
        ]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        sound = known(stats, "distinct") >= self.min_distinct
        longest = float(self.longest or self.rollouts.max_tokens)
        shaped = self.shape.of(stats.correct, known(stats, "fives"), longest)
        stats.report("reward/shaped", shaped[stats.first_rows].mean())
        advantage = self.grpo.advantage(stats, shaped, among=sound)
        yield self.grpo.term("policy", stats, advantage)
        if self.distill_weight or self.phase_out:
            yield self.distillation(stats, advantage)
        if self.kl:
            yield Sampled(name="kl", target=FromRole(REFERENCE), function=k3, coefficient=self.kl)

    def distillation(self, stats: Statistics, advantage: Float[Tensor, "N"]) -> Term:
        seen = stats.seen(TEACHER)
        taught = torch.where(seen, stats.log_prob(TEACHER), 0.0)
        gap = torch.where(seen, stats.behavior_log_prob - taught, 0.0)
        stats.report("kl/teacher", gap.sum() / seen.sum().clamp(min=1))
        sign = torch.where(advantage < 0, -1.0, 1.0) if self.flip else torch.ones_like(advantage)
        nearer = LogRatio(taught, temperature=self.temperature)
        clip: Mapping[str, Any] = {
            "behavior": stats.behavior_log_prob, "clip": (self.grpo.clip_low, self.grpo.clip_high),
        }  # fmt: skip
        informed: Mapping[str, Signal] = {TEACHER: "sampled"}
        return PolicyGradient(
            name="distill",
            advantage=At(lambda at: at.known(sign, "sign") * nearer(at)),
            where=self.chosen(stats, taught),
            coefficient=self.distill_weight,
            informed_by=informed,
            **(clip if self.clip_distill else {}),
        )

    def chosen(self, stats: Statistics, taught: Float[Tensor, "N T"]) -> Bool[Tensor, "N T"]:
        """[N, T] bool: the tokens that are distilled."""
        seen = stats.seen(TEACHER)
        early = seen & (stats.turn < self.first_turns) if self.first_turns else seen
        return early if self.top_share == 1 else stats.row_top(taught, self.top_share, early, least=1)


def known(stats: Statistics, name: str) -> Float[Tensor, "N"]:
    """[N] a number of the rows. ValueError where one is NaN or infinite: a comparison would quietly pass it over."""
    values = stats.number(name).to(stats.dtype)
    if not values.isfinite().all():
        raise ValueError(f"{name} is {float(values[~values.isfinite()][0])} at some row")
    return values


def own(one: Trajectory) -> list[int]:
    """The tokens that the policy wrote."""
    return [token for token, wrote in zip(one.ids, one.mask, strict=True) if wrote]


def distinct(ids: Sequence[int]) -> float:
    """Different 4-grams of tokens / all of them, in (0, 1]; 1 where there is none."""
    grams = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
