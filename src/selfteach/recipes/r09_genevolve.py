"""GenEvolve: what the best of a group did that the worst did not, shown to the teacher alone (text only)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from jaxtyping import Bool
from torch import Tensor

from selfteach.recipes.kit import *

EXPERIENCE = (
    "{problem}\n\n--- experience with requests like this ---\n{experience}\n--- end of the experience ---"
)
ASK = (
    "{problem}\n\n--- an attempt of reward {high} ---\n{best}\n--- an attempt of reward {low} ---\n{worst}\n"
    "--- end of the attempts ---\n\nSay what made the difference, as advice for requests like this one, in five short "
    "lines: how to search, which knowledge to use, which references to choose, how to compose the answer, which "
    "failures to avoid."
)
STORE = "experiences"


@settings
class GenEvolve(Recipe):
    """Reinforce rollouts, and distill at a few tokens from a copy that reads what set good ones apart from bad ones.

    "GenEvolve: Self-Evolving Image Generation Agents via Tool-Orchestrated Visual Experience Distillation" (arXiv
    2605.21605), without its images: of a group whose best and worst rollout lie at least ``margin`` apart, what made
    the difference becomes an experience; the teacher q, the same weights without gradient, reads the one of the most
    similar request. With ρ = π/π_sampling, l = log π(y_t|x) − log q(y_t|x, e),

        L = L_GRPO + λ · mean over the selected tokens of min(ρ, 2) ( exp(−l) − 1 + l ),   l within ± 10

    The ⌈0.1 n⌉ tokens of largest |l| are selected, of the n written ones of the batch whose teacher reads something.
    Retrieval counts words where the paper compares embeddings. Not stated where we could read: what the mean runs over
    (a knob), whether k3's input or value is clamped (here l), which tokens are "key" ones besides (here all), how
    eviction weighs age against gap (here the smallest gap goes, of equals the oldest).
    """

    name = "genevolve"
    title = "Experience distillation of best against worst (GenEvolve)"
    source = "https://arxiv.org/abs/2605.21605"
    formula = "L_GRPO + λ mean_{t in top 10 % of |l|} min(ρ, 2) ( exp(−l) − 1 + l )"
    plays = True
    presets = {"paper": {}, "all-tokens": {"top_share": 1.0}}
    sizes = {**Recipe.sizes, "summary_tokens": "tokens"}

    rollouts: Rollouts = Rollouts(per_prompt=6, temperature=0.7, top_p=0.95, max_tokens=4096, max_turns=11)
    optimization: Optimization = Optimization(lr=1e-6, prompts=8, schedule="cosine")
    grpo: GRPOSettings = GRPOSettings(clip_high=0.28)
    summaries: Summarizer = Summarizer()
    kl: NonNegativeFloat = 1e-3
    """Coefficient of the KL to the initial policy (0: no reference is scored)."""
    distill_weight: NonNegativeFloat = 2.0
    """λ, weight of the distillation (0: GRPO)."""
    distill_mean: Literal["selected", "seen"] = "selected"
    """What its sum is divided by: the selected tokens, or all whose teacher reads an experience (a tenth of the
    weight)."""
    top_share: PositiveUnit = 0.1
    """Share of these tokens that is distilled: those of largest |log π − log q|, rounded up."""
    ratio_cap: PositiveFloat | None = 2.0
    """Cap on the ratio π/π_sampling (none: no cap)."""
    gap_bound: PositiveFloat | None = 10.0
    """Bound on |log π − log q| in nats, without gradient beyond (none: unbounded)."""
    weights: Literal["live", "frozen"] = "live"
    """Whose scores teach: the student's at the batch's start (paper), or the initial policy's."""
    margin: NonNegativeFloat = 0.2
    """How far apart the rewards of a group's best and worst rollout must lie to be compared."""
    comparisons: PositiveInt = 8
    """Comparisons of a step at most, in each process; the largest differences come first."""
    bank_capacity: PositiveInt = 500
    """Experiences that are kept, in each process."""
    similarity: UnitInterval = 0.84
    """An experience is shown where the cosine similarity of the two requests' words is at least this."""
    experience_template: str = EXPERIENCE
    """What the teacher is shown; it names {problem} and {experience}."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "genevolve compares rollouts of one prompt: per_prompt must be at least 2",
        )

    @property
    def teachers(self) -> Mapping[str, Role]:
        view, weights = (
            Told(self.experience_template, "experience"),
            Live() if self.weights == "live" else Frozen(),
        )
        teacher = Role(weights, view, self.student_thinking, signal="sampled")
        reference = Role(Frozen(), Plain(), self.student_thinking, signal="sampled")
        chosen = {TEACHER: teacher} if self.distill_weight else {}
        return chosen | ({REFERENCE: reference} if self.kl else {})

    @property
    def writers(self) -> Mapping[str, Role]:
        return self.summaries.writers(self.student_thinking)

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        bank = Bank(tools.store(STORE).notes, self.bank_capacity, evict=least_gap)
        written = tools.grade(tools.play(prompts, self.rollouts.per_prompt))
        pairs = contrasts(written, self.margin)[: self.comparisons]
        about = {i: compared(best, worst) for i, (best, worst) in enumerate(pairs)}
        texts = self.summaries.written(
            tools, about, Told(ASK, "comparison"), lambda one: one.example.private["best"]
        )
        for i, text in texts.items():
            best, worst = pairs[i]
            bank.add(best.example.key, best.example.problem, text, reward_of(best) - reward_of(worst))
        told = []
        for rows in by_group(written).values():
            shown = Similar(self.similarity)(bank, rows[0].example)
            if shown is not None:
                bank.used(shown, sum(map(reward_of, rows)) / len(rows))
            told += rows if shown is None else [one.told(experience=shown["text"]) for one in rows]
        return told

    def terms(self, stats: Statistics) -> Iterable[Term]:
        each: Reduction | Divisor = (
            "rollouts" if stats.columns.trajectory is None else Divisor("one", "trajectory")
        )
        yield self.grpo.term("policy", stats, mean_over=each)
        if self.distill_weight:
            yield importance_k3_term(
                stats, cap=self.ratio_cap, bound=self.gap_bound, where=self.decisive(stats),
                mean_over="selected" if self.distill_mean == "selected" else stats.seen(TEACHER),
                coefficient=self.distill_weight,
            )  # fmt: skip
        if self.kl:
            yield Sampled(
                name="kl", target=FromRole(REFERENCE), function=k3, coefficient=self.kl, mean_over=each
            )

    def decisive(self, stats: Statistics) -> Bool[Tensor, "N T"]:
        """[N, T] bool: the ⌈share · n⌉ tokens of the batch at which the experience changes most."""
        seen = stats.seen(TEACHER)
        if self.top_share == 1:
            return seen
        size = (stats.old_log_prob() - stats.log_prob(TEACHER)).abs()
        most = math.ceil(self.top_share * int(seen.sum()) - 1e-9)
        return row_top(size.reshape(1, -1), seen.reshape(1, -1), most).reshape(seen.shape)


def contrasts(written: Sequence[Trajectory], margin: float) -> list[tuple[Trajectory, Trajectory]]:
    """(best, worst) rollout of each group whose rewards lie at least ``margin`` apart, the largest difference first."""
    ends = [(max(rows, key=reward_of), min(rows, key=reward_of)) for rows in by_group(written).values()]
    gaps = [(reward_of(best) - reward_of(worst), i) for i, (best, worst) in enumerate(ends)]
    # 0.9 − 0.7 is a little less than 0.2.
    return [ends[i] for gap, i in sorted(gaps, key=lambda pair: -pair[0]) if gap > 0 and gap >= margin - 1e-9]


def compared(best: Trajectory, worst: Trajectory) -> Trajectory:
    """The best rollout, whose example tells of both."""
    high, low = (f"{reward_of(one):g}" for one in (best, worst))
    return best.told(best=best.text or "(nothing)", worst=worst.text or "(nothing)", high=high, low=low)
