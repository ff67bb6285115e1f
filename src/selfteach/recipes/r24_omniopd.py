"""Distillation from a teacher that only writes: what it says at uncertain places verifies the student (OmniOPD)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from selfteach.recipes.kit import *

ALIKE = {"edit": edit_similarity, "rouge-1": rouge_1}


@settings
class OmniOPD(Recipe):
    """Imitate one's own words as far as a teacher's independent continuations agree with them.

    "OmniOPD: Logit-Free On-Policy Distillation via Speculative Verification" (arXiv 2606.01476). At the ``chunks``
    places of highest student entropy, chunks of C tokens that do not overlap, the teacher goes on from the student's
    prefix N times; φ in [0, 1] compares texts:

        π̂ = ( Σ_n φ(chunk, continuation_n) + α π̄ ) / (N + α),    π̄ = exp( mean over the chunk of log π(y_t) )
        L  = mean over tokens of  −π̂ log π(y_t) in chunks,  β KL( π_base ‖ π ) elsewhere

    π̂ without gradient, π_base the initial student. The teacher's probabilities are never read. Weights are at least 0:
    words that nobody shares are pushed less, never away.
    """

    name = "omniopd"
    title = "OmniOPD"
    source = "https://arxiv.org/abs/2606.01476"
    formula = "mean_t −π̂ log π(y_t) | β KL(π₀‖π),  π̂ = (Σ_n φ_n + α π̄)/(N + α)"
    numbers = {"chunk": "token", "agreement": "token"}
    sizes = {**Recipe.sizes, "chunks": "group", "continuations": "group", "chunk_tokens": "tokens"}

    rollouts: Rollouts = Rollouts(max_tokens=2048)
    teacher: str = "Qwen/Qwen3-8B"
    """Who writes the continuations: a folder, a hub id or arena:NAME."""
    chunks: PositiveInt = 10
    """M, the chunks audited of each answer, at most."""
    continuations: NonNegativeInt = 10
    """N, the teacher's continuations of each."""
    chunk_tokens: PositiveInt = 50
    """C, the tokens of a chunk and of a continuation."""
    prior_strength: NonNegativeFloat = 1.0
    """α, how many continuations the student's own confidence counts as."""
    anchor: NonNegativeFloat = 0.1
    """β, the coefficient of the KL to the initial student outside the chunks (0: none)."""
    similarity: Literal["edit", "rouge-1"] = "edit"
    """φ: 1 − edit distance over the longer length, in characters; or the F1 of shared words."""
    places: Literal["entropy", "random"] = "entropy"
    """Which chunks are audited: those that begin where the student is least sure, or any (control)."""
    characters: PositiveInt = 4000
    """Longest text that is compared."""

    def __post_init__(self) -> None:
        require(
            self.continuations + self.prior_strength > 0,
            "continuations and prior_strength are both 0: nothing weighs a chunk",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)} if self.anchor else {}

    @property
    def writers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.sample(prompts, self.rollouts.per_prompt)
        begins = [peaks(one, self.chunks, self.chunk_tokens) for one in self.uncertainty(tools, written)]
        prefixes = [tools.cut(one, at) for one, places in zip(written, begins, strict=True) for at in places]
        n, c = self.continuations, self.chunk_tokens
        more = tools.sample(prefixes, n, role=TEACHER, max_tokens=c) if n and prefixes else []
        said = iter([tools.text(one.ids[one.fork or 0 :]) for one in more])
        marked = []
        for one, places in zip(written, begins, strict=True):
            chunk, agreement = [-1.0] * len(one.ids), [0.0] * len(one.ids)
            for k, at in enumerate(places):
                own = tools.text(one.ids[at : at + c])
                alike = sum(self.alike(own, next(said)) for _ in range(n))
                chunk[at : at + c], agreement[at : at + c] = [float(k)] * c, [alike] * c
            marked.append(one.with_numbers(chunk=chunk, agreement=agreement))
        return marked

    def alike(self, one: str, other: str) -> float:
        return ALIKE[self.similarity](one[: self.characters], other[: self.characters])

    def uncertainty(self, tools: Tools, written: Sequence[Trajectory]) -> list[list[float]]:
        if self.places == "random":
            draws = tools.random("places")
            return [[draws.random() for _ in one.ids] for one in written]
        own = partial(role_entropy, role=STUDENT, temperature=self.temperature)
        return tools.measure(written, {"entropy": Quantity(own)})["entropy"]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        chunk = stats.number("chunk").long()
        audited = (chunk >= 0) & stats.mask
        yield NegativeLogLikelihood(
            name="verified",
            weight=self.belief(stats, chunk),
            where=audited,
            temperature=self.temperature,
            mean_over="tokens",
        )
        if self.anchor:
            yield Match(
                name="anchor",
                target=FromRole(REFERENCE),
                divergence=ForwardKL(),
                where=stats.mask & ~audited,
                coefficient=self.anchor,
                mean_over="tokens",
            )

    def belief(self, stats: Statistics, chunk: Int[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """[N, T] π̂ of each audited token, 0 elsewhere."""
        most = max(1, int(chunk.max()) + 1) if chunk.numel() else 1
        rows = torch.arange(len(chunk), device=chunk.device).unsqueeze(1) * most
        unit = torch.where((chunk >= 0) & stats.mask, rows + chunk, -1)
        n, alpha = self.continuations, self.prior_strength
        prior: Float[Tensor, "N T"] | float = 0.0
        if alpha:
            sure = (stats.unit_sum(unit) / self.chunk_tokens).exp()
            prior = alpha * torch.cat([sure, sure.new_zeros(1)])[unit]  # the last is that of unit −1
        belief = (stats.number("agreement") + prior) / (n + alpha)
        stats.report("agreement", belief[unit >= 0].mean() if (unit >= 0).any() else torch.nan)
        return torch.where(unit >= 0, belief, 0.0)


def peaks(height: Sequence[float], most: int, width: int) -> list[int]:
    """At most ``most`` places, highest first taken, whose stretches [place, place + width) fit and do not overlap; in
    the order of the text. Of equals the earlier."""
    found: list[int] = []
    for at in sorted(range(len(height) - width + 1), key=lambda i: (-height[i], i)):
        if len(found) == most:
            break
        if all(abs(at - other) >= width for other in found):
            found.append(at)
    return sorted(found)
