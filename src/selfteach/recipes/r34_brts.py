"""Distillation on one's own text, and a little on the best text that the teacher found (BRTS)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *

HINTED = "hinted"
HINT = (
    "{problem}\n\n"
    "--- for checking only ---\n{answer}\n--- end ---\n"
    "Derive everything from the problem itself. Compare with what stands above only when you are done, and never "
    "mention or allude to it."
)


@settings
class BRTS(Recipe):
    """Distill on the student's answers, and with weight λ on one teacher answer a prompt: right first, then close.

    "On-Policy Distillation with Best-of-N Teacher Rollout Selection" (arXiv 2605.09725). S holds the student p's k
    likeliest tokens at a position, w = p/p(S), q the teacher:

        L = mean over the student's tokens of Σ_S w · sg[log p − log q]   (gradient through w's numerator alone)
          + λ · mean over the selected answer's tokens of KL( p/p(S) ‖ q/q(S) ) on S

    The teacher answers each prompt ``teacher_samples`` times. Of its right answers the one is taken whose tokens stand
    most often among the student's k likeliest at the same position of its own answers. Where none is right it is shown
    the answer as a check and tries ``hinted_samples`` times; where these are wrong too the closest of the first is
    taken or none. Released code weighs the second sum by detached w, whose gradient does not know q; here it is the
    normalized reverse KL, or the forward KL on the teacher's k likeliest.
    """

    name = "brts"
    title = "Best-of-N Teacher Rollout Selection"
    source = "https://arxiv.org/abs/2605.09725"
    formula = "mean_t Σ_S w sg[log p/q] + λ mean_{t∈y*} KL(p̃‖q̃),  y* the teacher's best"
    numbers = {"own_length": "row"}
    sizes = {**Recipe.sizes, "teacher_samples": "group", "hinted_samples": "group"}

    rollouts: Rollouts = Rollouts(per_prompt=2, max_tokens=7168)
    optimization: Optimization = Optimization(lr=1e-6, prompts=64)
    teacher: str = "hbx/JustRL-DeepSeek-1.5B"
    """The model that scores and writes, of the same tokenizer: a folder, a hub id or arena:NAME."""
    loss_top_k: PositiveInt | None = 16
    """k of the student's likeliest tokens in the loss (none: the whole vocabulary)."""
    teacher_weight: NonNegativeFloat = 0.05
    """λ, the weight of the teacher's selected answers (0: plain distillation, and it writes none)."""
    teacher_samples: PositiveInt = 2
    """N, the teacher's answers to each prompt."""
    hinted_samples: NonNegativeInt = 1
    """Its tries with the answer in sight, where none of N is right."""
    teacher_temperature: PositiveFloat = 0.7
    """Temperature of the teacher's answers."""
    teacher_top_p: PositiveUnit = 0.95
    """Nucleus of the teacher's answers."""
    fallback: Literal["closest", "skip"] = "closest"
    """Where no answer is right: the closest of the first N, or none."""
    auxiliary: Literal["reverse", "forward"] = "reverse"
    """The loss on the selected answer: reverse KL on the student's k likeliest, or forward KL on the teacher's."""
    select: Literal["best", "first"] = "best"
    """Which of the teacher's answers is taken: as above, or the first, right or wrong (control)."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    @property
    def writers(self) -> Mapping[str, Role]:
        if not (self.teacher_weight and self.hinted_samples and self.select == "best"):
            return {}
        return {HINTED: Role(External(self.teacher), Answer(HINT), self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        own = tools.sample(prompts, self.rollouts.per_prompt)
        if not self.teacher_weight:
            return own
        likely = self.likely(tools, own)
        first = self.answers(tools, prompts, TEACHER, self.teacher_samples)
        unsolved = [one for one in prompts if not any(found.right for found in first[one.group])]
        hinted = self.answers(tools, unsolved, HINTED, self.hinted_samples) if self.writers else {}
        chosen = [self.chosen(first[g], hinted.get(g, []), likely[g]) for g in (one.group for one in prompts)]
        longest = {group: float(max(len(sets) for sets in each)) for group, each in likely.items()}
        rows = [*own, *(one for one in chosen if one is not None)]
        return [one.with_numbers(own_length=longest[one.group]) for one in rows]

    def answers(
        self, tools: Tools, prompts: Sequence[Prompt], role: str, n: int
    ) -> dict[int, list[Trajectory]]:
        """Group → the role's graded answers."""
        heat, top_p = self.teacher_temperature, self.teacher_top_p
        return by_group(tools.grade(tools.sample(prompts, n, role=role, temperature=heat, top_p=top_p)))

    def likely(self, tools: Tools, own: Sequence[Trajectory]) -> dict[int, list[list[set[int]]]]:
        """Group → of each of its answers the student's k likeliest tokens at every position."""
        k = self.loss_top_k or 16
        columns = tools.measure(own, {str(n): Quantity(partial(nth_likeliest, n=n, k=k)) for n in range(k)})
        found: dict[int, list[list[set[int]]]] = {}
        for one, *rows in zip(own, *columns.values(), strict=True):
            found.setdefault(one.group, []).append([set(map(int, at)) for at in zip(*rows, strict=True)])
        return found

    def chosen(
        self, first: Sequence[Trajectory], hinted: Sequence[Trajectory], likely: Sequence[Sequence[set[int]]]
    ) -> Trajectory | None:
        """The answer that is imitated, or None."""
        if self.select == "first":
            return first[0]
        right = [one for one in first if one.right] or [one for one in hinted if one.right]
        left = right or (list(first) if self.fallback == "closest" else [])
        return max(left, key=lambda one: overlap(one.ids, likely), default=None)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        own = stats.origin(STUDENT).unsqueeze(1) & stats.mask
        yield Match(
            name="distill",
            target=FromRole(TEACHER),
            divergence=ReverseKL(detach_ratio=True),
            support=likeliest(self.loss_top_k, of="student", tail="drop"),
            gate=None if self.loss_top_k is None else At(partial(over_mass, self)),
            where=own,
            mean_over="selected",
        )
        if self.teacher_weight:
            within_own = stats.mask.cumsum(dim=1) <= stats.number("own_length").unsqueeze(1)
            forward = self.auxiliary == "forward"
            yield Match(
                name="selected",
                target=FromRole(TEACHER),
                divergence=ForwardKL() if forward else ReverseKL(),
                support=likeliest(
                    self.loss_top_k, of="teacher" if forward else "student", tail="renormalize"
                ),
                where=~stats.origin(STUDENT).unsqueeze(1) & stats.mask & within_own,
                coefficient=self.teacher_weight,
                mean_over="selected",
            )


def over_mass(recipe: BRTS, at: Positions) -> Float[Tensor, "P"]:
    """[P] 1/p(S), so that the k likeliest tokens' weights sum to 1."""
    chance = at.probs(STUDENT, recipe.temperature)
    ids = top_ids(chance, min(recipe.loss_top_k or 0, chance.shape[1]))
    return 1 / chance.gather(1, ids).sum(1)


def overlap(ids: Sequence[int], likely: Sequence[Sequence[set[int]]]) -> float:
    """The share of a text's tokens that stand among the student's likeliest at the same position of its own answers, in
    the mean over these; positions that an answer has not are left out."""
    shares = [
        sum(token in here for token, here in zip(ids, sets, strict=False)) / max(1, min(len(ids), len(sets)))
        for sets in likely
    ]
    return sum(shares) / max(1, len(shares))
