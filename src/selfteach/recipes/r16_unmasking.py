"""Distill where it helps: only at tokens whose gradient points where the student's own success lies (Unmasking OPD)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from selfteach.recipes.kit import *
from selfteach.recipes.r01_opsd import OPSD

Branch = tuple[int, int, int]
"""(rollout, position, which candidate)"""


@settings
class Unmasking(OPSD):
    """OPSD's loss, kept at tokens where its gradient agrees with that of the student's own chance of success.

    After "Unmasking On-Policy Distillation" (arXiv 2605.10889), whose measure is used as a gate. At the ``nodes``
    positions of highest student entropy of each answer every candidate token j of chance p_j ≥ ``min_prob`` is forced
    and the answer completed ``completions`` times by the student: V_j is the share of right ones. With p renormalized
    on the candidates,

        g*_j = p_j (V_j − Σ p V),    A = cos( −∂L/∂z , g* ),    both at a fixed mass on the candidates

    g* is the gradient of the chance of success in the logits z. ``gate`` says which tokens are trained on; a node where
    either gradient is 0, such as one where all candidates fare alike, has no A: it is not aligned, nor harmed.
    """

    name = "unmasking"
    title = "Unmasking On-Policy Distillation: a token gate"
    source = "https://arxiv.org/abs/2605.10889"
    formula = "mean_y mean over its nodes of [A_t > 0] D_t,  A_t = cos(−∂D_t/∂z, p (V − V̄))"
    numbers = {f"{what}{j}": "token" for what in ("candidate", "value") for j in range(4)}
    sizes = {**OPSD.sizes, "nodes": "group", "completions": "group"}

    nodes: PositiveInt = 4
    """Positions looked at in each answer."""
    candidates: Literal[2, 3, 4] = 4
    """Most tokens forced at a node: the student's likeliest."""
    min_prob: UnitInterval = 0.01
    """A candidate must be this likely to the student."""
    completions: PositiveRows = 8
    """The student's completions of each forced token."""
    gate: Literal["aligned", "unharmed", "nodes"] = "aligned"
    """Nodes with A > 0; or all tokens but nodes with A ≤ 0; or all nodes, whatever their A (control)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.loss == "divergence" and self.teacher_top_k is None,
            "unmasking compares gradients over the vocabulary: leave loss at divergence and teacher_top_k at none",
        )

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.sample(prompts, self.rollouts.per_prompt)
        own = partial(role_entropy, role=STUDENT, temperature=self.temperature)
        wanted = {f"token{j}": Quantity(partial(self.candidate, j=j)) for j in range(self.candidates)}
        measured = tools.measure(written, {"entropy": Quantity(own), **wanted})
        branches = [
            (i, at, j)
            for i, entropies in enumerate(measured["entropy"])
            for at in sorted(sorted(range(len(entropies)), key=lambda t: -entropies[t])[: self.nodes])
            for j in range(self.candidates)
            if measured[f"token{j}"][i][at] >= 0
        ]
        value = self.values(tools, written, measured, branches)
        return [one.with_numbers(**self.columns(i, one, measured, value)) for i, one in enumerate(written)]

    def candidate(self, at: Positions, j: int) -> Float[Tensor, "P"]:
        """[P] the id of the student's j-th likeliest token (from 0); −1 where it is less likely than ``min_prob``."""
        ids, chance = nth_likeliest(at, j, self.candidates), at.probs(STUDENT, self.temperature)
        likely = chance.gather(1, ids.clamp(min=0).unsqueeze(1)).squeeze(1) >= self.min_prob
        return torch.where(likely, ids, -1).to(chance.dtype)

    def values(
        self,
        tools: Tools,
        written: Sequence[Trajectory],
        measured: dict[str, list[list[float]]],
        branches: Sequence[Branch],
    ) -> dict[Branch, float]:
        """V of each branch: the share of its completions that are right, within the longest answer."""
        most = self.rollouts.max_tokens
        forced = [
            tools.cut(written[i], at, then=[int(measured[f"token{j}"][i][at])]) for i, at, j in branches
        ]
        ended = [one.finished or len(one.ids) >= most for one in forced]
        begun = [one for one, over in zip(forced, ended, strict=True) if not over]
        room = max((most - len(one.ids) for one in begun), default=0)
        more = tools.sample(begun, self.completions, max_tokens=room) if begun else []
        graded = iter(tools.grade([one if len(one.ids) <= most else tools.cut(one, most) for one in more]))
        alone = iter(tools.grade([one for one, over in zip(forced, ended, strict=True) if over]))
        return {
            branch: float(next(alone).right)
            if over
            else sum(next(graded).right for _ in range(self.completions)) / self.completions
            for branch, over in zip(branches, ended, strict=True)
        }

    def columns(
        self,
        i: int,
        one: Trajectory,
        measured: dict[str, list[list[float]]],
        value: dict[Branch, float],
    ) -> dict[str, list[float]]:
        """The candidates' ids at the nodes of an answer and their V; −1 and 0 elsewhere."""
        found = {f"candidate{j}": [-1.0] * len(one.ids) for j in range(self.candidates)}
        found |= {f"value{j}": [0.0] * len(one.ids) for j in range(self.candidates)}
        for (row, at, j), success in value.items():
            if row == i:
                found[f"candidate{j}"][at] = measured[f"token{j}"][i][at]
                found[f"value{j}"][at] = success
        return found

    def terms(self, stats: Statistics) -> Iterable[Term]:
        ids = [stats.number(f"candidate{j}") for j in range(self.candidates)]
        values = [stats.number(f"value{j}") for j in range(self.candidates)]
        node = (ids[0] >= 0) & stats.mask
        for term in super().terms(stats):
            assert isinstance(term, Match)
            assert isinstance(term.divergence, Divergence)
            gate = At(partial(self.helps, term.divergence, ids, values), (STUDENT, TEACHER))
            yield replace(
                term,
                gate=None if self.gate == "nodes" else gate,
                where=stats.mask if self.gate == "unharmed" else node,
                mean_over=self.divisor,
            )

    @property
    def divisor(self) -> Reduction | Divisor:
        """Of the tokens that are selected: mean over answers of their means, or over all of them."""
        return Divisor("selected", "row") if self.mean_over == "sequences" else "selected"

    def helps(
        self,
        divergence: Divergence,
        ids: Sequence[Float[Tensor, "N T"]],
        values: Sequence[Float[Tensor, "N T"]],
        at: Positions,
    ) -> Float[Tensor, "P"]:
        """[P] 1 at nodes where the loss's descent and the chance of success go together (of gate "unharmed": do not go
        apart), 0 at others; elsewhere 1."""
        candidates = torch.stack([torch.as_tensor(at.column(one)) for one in ids], dim=1).long()
        value = torch.stack([torch.as_tensor(at.column(one)) for one in values], dim=1)
        real, place = candidates >= 0, candidates.clamp(min=0)
        own, theirs = at.log_probs(STUDENT, self.temperature), at.log_probs(TEACHER, self.temperature)
        chance = own.exp().gather(1, place) * real
        chance = chance / chance.sum(1, keepdim=True).clamp(min=torch.finfo(chance.dtype).tiny)
        gradient = divergence.logit_gradient(own, theirs).gather(1, place) * real
        score = cosine(-within(gradient, chance), ideal_gradient(chance, value.to(chance.dtype)))
        helps = score > 0 if self.gate == "aligned" else ~(score <= 0)
        return (helps | ~real[:, 0]).to(chance.dtype)
