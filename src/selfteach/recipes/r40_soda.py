"""A teacher's text preferred to what the untrained student wrote once (SODA)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from selfteach.recipes.kit import *

PAIRS = "pairs"
"""The store that both stages train on."""


@settings
class Warmup(Recipe):
    """The first stage of SODA: write the pairs, and imitate their better side, L = mean over tokens of −log q_θ(y⁺)."""

    title = "Supervised fine-tuning on a teacher's answers"
    source = "https://arxiv.org/abs/2604.03873"
    formula = "mean_t −log q_θ(y⁺_t), y⁺ ~ teacher"

    teacher: str = ""
    """The model that writes y⁺ (empty: the data's own text)."""
    reference: str = "solution"
    """Without a teacher, the private field that holds y⁺."""
    black_box: TextTeacher = TextTeacher()

    @property
    def servers(self) -> Sequence[ChatServer]:
        return self.black_box.servers(self.teacher)

    @property
    def writers(self) -> Mapping[str, Role]:
        local = self.teacher and not self.servers
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)} if local else {}

    @property
    def store(self) -> str:
        return PAIRS

    @property
    def temperature(self) -> float:
        return 1.0

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        if self.servers:
            r, (server,) = self.rollouts, self.servers
            theirs = answered_by(server, tools, prompts, 1, r.max_tokens, r.temperature)
            asked = [Prompt(one.example, one.prompt_ids, one.group) for one in theirs]  # not all are answered
            return preferred(theirs, tools.sample(asked))
        return preferred(imitated(tools, prompts, self.teacher, self.reference), tools.sample(prompts))

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield NegativeLogLikelihood(name="nll", where=stats.pair >= 0, mean_over="selected")


@settings
class SODA(Recipe):
    """Distill a model of which only text is known: its answer is preferred to the student's own of before training.

    "SODA" (arXiv 2604.03873). For each of ``stored`` prompts x the teacher answers y⁺ and the untrained student q₀
    answers y⁻, once. Stage "sft" imitates y⁺ and ends at q_w, where stage "prefer" begins and which it refers to:

        L = mean over pairs of −log σ( β [ log q_θ/q_w (y⁺|x) − log q_θ/q_w (y⁻|x) ] )

    The pairs are never written anew: hence semi on-policy. β, learning rates and steps are inferred.
    """

    name = "soda"
    title = "Semi On-Policy Black-Box Distillation"
    source = "https://arxiv.org/abs/2604.03873"
    formula = "mean −log σ( β [ log q_θ/q_w (y⁺) − log q_θ/q_w (y⁻) ] ),  y⁺ ~ teacher, y⁻ ~ q_0"
    sizes = {**Recipe.sizes, "sft_steps": "steps"}
    presets = {"paper": {}}

    rollouts: Rollouts = Rollouts(stored=8192)
    optimization: Optimization = Optimization(lr=1e-6, prompts=64, steps=128)
    teacher: str = ""
    """The model that writes y⁺: a folder, a hub id or arena:NAME (empty: the data's own text)."""
    reference: str = "solution"
    """Without a teacher, the private field that holds its text."""
    black_box: TextTeacher = TextTeacher()
    sft_steps: PositiveInt = 128
    """Steps of stage "sft" (inferred: one pass over the pairs)."""
    sft_lr: PositiveFloat = 1e-5
    """Learning rate of stage "sft" (inferred)."""
    beta: PositiveFloat = 0.1
    """β, how closely the student is held to the warm-up's end (inferred)."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.stored > 0,
            "soda writes its pairs once, before any training: set stored to the number of prompts",
        )
        self.black_box.servers(self.teacher)
        require(self.rollouts.per_prompt == 1, "soda writes one pair for each prompt: per_prompt must be 1")

    @property
    def stages(self) -> Mapping[str, Recipe]:
        warmup = Warmup(
            rollouts=self.rollouts,
            optimization=replace(self.optimization, lr=self.sft_lr, steps=self.sft_steps),
            adapter=self.adapter,
            student_thinking=self.student_thinking,
            teacher=self.teacher,
            reference=self.reference,
            black_box=self.black_box,
        )
        return {"sft": warmup, "prefer": self}

    @property
    def store(self) -> str:
        return PAIRS  # filled by the warm-up

    @property
    def temperature(self) -> float:
        return 1.0

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {REFERENCE: Role(Frozen(), Plain(), self.student_thinking)}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """What preflight looks at in the teacher's place; in a run the pairs are in the store already."""
        return preferred(tools.sample(prompts), tools.sample(prompts))

    def terms(self, stats: Statistics) -> Iterable[Term]:
        pairs = Pairs.given(stats, stats.whole(REFERENCE))
        sums, reference = stats.unit_sum(pairs.unit), stats.unit_sum(pairs.unit, REFERENCE)
        report_rewards(stats, pairs, self.beta * (sums - reference))
        yield SequenceTerm(
            name="prefer",
            unit=pairs.unit,
            sums=sums,
            function=dpo(pairs, reference, beta=self.beta),
            informed_by={REFERENCE: "sampled"},
        )
