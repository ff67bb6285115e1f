"""Fine-tuning on references that the model has put into its own words (SDFT, the rewriting variant)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from selfteach.recipes.kit import *

SEED = "seed"
REWRITE = (
    "Below are a question and a reference answer. Answer the question in your own words, with the content of the "
    "reference.\n\n"
    "Question:\n{{problem}}\n\n"
    "Reference answer:\n{{{field}}}\n\n"
    "Your answer:"
)


@settings
class SDFTRewrite(Recipe):
    """Imitate references that the model itself rewrote before training: what is learned stays near what it would say.

    "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning" (arXiv 2402.13669). The initial policy
    p* reads question x and reference y and writes ỹ; where ỹ does not earn what a right answer does, y stays:

        L = mean over tokens of −log p_θ(ỹ_t | x, ỹ_<t),   ỹ ~ p*(· | x, y) if it verifies, else ỹ = y
    """

    name = "sdft-rewrite"
    title = "Self-Distillation Fine-Tuning by rewritten references"
    source = "https://arxiv.org/abs/2402.13669"
    formula = "mean_t −log p(ỹ_t),  ỹ ~ p*(·|x, y) if right, else y"
    presets = {"paper": {}}

    rollouts: Rollouts = Rollouts(max_tokens=1024, stored=2000)
    optimization: Optimization = Optimization(lr=1e-4, prompts=8, steps=500, schedule="cosine")
    adapter: Adapter = Adapter(lora_rank=8, lora_alpha=16)
    reference: str = "solution"
    """The private field that is rewritten."""
    shown: str = ""
    """The private field that is read while rewriting (empty: the reference)."""
    keep_wrong: bool = False
    """Keep a rewriting that does not verify too, in the reference's place (where nothing can be graded)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.stored >= 1,
            "sdft-rewrite writes its targets once, before the first step: set stored to the number of questions",
        )
        require(
            self.rollouts.per_prompt == 1,
            "sdft-rewrite writes one target for each question: per_prompt must be 1",
        )

    @property
    def writers(self) -> Mapping[str, Role]:
        field = self.shown or self.reference
        shown = Field(field, REWRITE)
        return {SEED: Role(Frozen(), shown, self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        written = tools.sample(prompts, role=SEED)
        if self.keep_wrong:
            return written
        given = tools.quote(prompts, self.reference)
        graded = tools.grade(written)
        return [own if own.right else other for own, other in zip(graded, given, strict=True)]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll", mean_over="tokens")
