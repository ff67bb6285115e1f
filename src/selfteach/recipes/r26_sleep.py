"""What a fast memory learned by day, retold at night into a low-rank expert beside frozen weights (Sleep)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from selfteach.recipes.kit import *

COMPLETED, JUDGE, VERDICT = "completed", "judge", 4
"""The mark on what the student wrote, the role that judges it, and how many tokens its verdict may have."""
SAME = Told(
    "{problem}\n\n--- one answer ---\n{dream}\n--- another answer ---\n{retold}\n--- end ---\n\n"
    "Do both answers mean the same? Write yes or no.",
    JUDGE,
)


@settings
class Sleep(Recipe):
    """Knowledge Seeding: distill what the weights learned in wake into a new low-rank expert, and have it retold.

    "Language Models Need Sleep" (arXiv 2606.03979), its consolidation. In stage "wake" a low-rank adapter, the fast
    memory, is fine-tuned on the data. Then it is reset: base and expert begin anew, the expert's second factor at 0,
    and the teacher T is the model of the wake, frozen, behind the same prompts. T answers each with a dream d; the
    student S goes on from a random prefix of it, which gives d̂. With z = Levenshtein(d̂, d) in tokens

        r = γ [d̂ means the same as d] + (1 − γ) r_abs,    r_abs = 1 − z/max(|d̂|, |d|) where z ≤ z_0, else 0
        L = (1 − α) L_GRPO(r) + α ( λ mean_{d̂} D(T‖S) + (1 − λ) mean_d D(T‖S) )

    over the tokens that S wrote, in the last mean over the dream's; each is a mean over texts of the mean over their
    tokens, without a gradient through the sampling. α = 1 distills alone, α = 0 reinforces alone; λ = 1 is the paper's
    objective, λ = 0 supervised distillation. Its Dreaming, data that the model learns to make for itself, is not here.
    """

    name = "sleep"
    title = "Sleep: Knowledge Seeding into a new expert"
    source = "https://arxiv.org/abs/2606.03979"
    formula = "(1−α) L_GRPO( γ [same] + (1−γ)(1 − z/max) ) + α D(T_wake ‖ S_base+expert)"
    marks = (COMPLETED,)
    numbers = {"same": "row", "alike": "row"}
    sizes = {**Recipe.sizes, "wake_steps": "steps"}
    presets = {"paper": {}, "distill": {"alpha": 1.0}, "no-expansion": {"lora_rank": 0}}

    rollouts: Rollouts = Rollouts(per_prompt=8)
    optimization: Optimization = Optimization(lr=5e-6)
    adapter: Adapter = Adapter(lora_rank=64, lora_targets=("gate_proj", "up_proj", "down_proj"))
    grpo: GRPOSettings = GRPOSettings()
    teacher: str = ""
    """The model that holds the fast memory: a run of one's own, a folder, a hub id or arena:NAME (empty: what stage
    "wake" makes of the model)."""
    wake_steps: PositiveInt = 100
    """Steps of stage "wake", fine-tuning on the data (not stated; a teacher that is named takes its place)."""
    wake_lr: PositiveFloat = 5e-6
    """Its learning rate (not stated)."""
    reference: str = "solution"
    """The private field that the wake learns."""
    alpha: UnitInterval = 0.5
    """α, how much the distillation counts against the reward of retelling (no value given; 1: it alone)."""
    gamma: UnitInterval = 0.5
    """γ, how much of the reward is for the same meaning; the rest is for the same tokens (no value given)."""
    max_edits: NonNegativeInt | None = None
    """z_0, the edits beyond which tokens earn nothing (no value given; none: no bound)."""
    lmbda: UnitInterval = 1.0
    """λ, how much the student's own texts count in the distillation against the teacher's dreams."""
    prefix: UnitInterval = 1.0
    """Longest share of a dream that is given (0: none, the student answers the bare prompt)."""
    divergence: Form = "forward-kl"
    """D: the paper writes T‖S, a forward KL, and elsewhere calls the reverse one usual."""
    loss_top_k: PositiveInt = 20
    """k of the top-k divergences."""
    beta: UnitInterval = 0.5
    """β of divergence "jsd": 0 forward KL, 1 reverse KL."""
    judge: Literal["claim", "text", "model"] = "claim"
    """When two texts mean the same: equal final answers as the task reads them, equal words, or a model's yes."""
    judge_model: str = ""
    """The model that judges, of the same tokenizer (empty: the student as the night begins)."""

    def __post_init__(self) -> None:
        several = self.alpha == 1 or self.rollouts.per_prompt >= 2
        require(several, "sleep compares how a dream is retold: per_prompt must be at least 2")
        require(
            self.lmbda == 1 or self.divergence not in ("sampled", "decoded"),
            f"divergence {self.divergence} is of the student's own tokens: set lmbda to 1",
        )

    @property
    def stages(self) -> Mapping[str, Recipe]:
        if self.teacher:
            return {"sleep": self}
        how = replace(self.optimization, lr=self.wake_lr, steps=self.wake_steps)
        wake = Imitate(self.rollouts, how, self.adapter, self.student_thinking, reference=self.reference)
        return {"wake": wake, "sleep": self}

    @property
    def trained(self) -> Mapping[str, TrainedWeights]:
        """The reset: what the wake trained goes back to where it began."""
        where = PREVIOUS if self.teacher else BASE
        return {POLICY: TrainedWeights(where, self.optimization, self.adapter)}

    @property
    def waking(self) -> Role:
        awake = External(self.teacher) if self.teacher else Snapshot("wake")
        return Role(awake, Plain(), self.student_thinking)

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: self.waking} if self.alpha else {}

    @property
    def writers(self) -> Mapping[str, Role]:
        whose = External(self.judge_model) if self.judge_model else Frozen()
        asked = self.judge == "model" and self.alpha < 1
        judge = {JUDGE: Role(whose, Plain(), self.student_thinking)} if asked else {}
        return judge if self.alpha else {TEACHER: self.waking, **judge}

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        """The dreams, where they are distilled, and what the student makes of their beginnings."""
        n, chance = self.rollouts.per_prompt, tools.random("prefix")
        dreams = tools.grade(tools.sample(prompts, role=TEACHER))
        kept = dreams if self.alpha and self.lmbda < 1 else []
        rows = [replace(one, marks={COMPLETED: [False] * len(one.ids)}) for one in kept]
        if self.alpha == 1 and self.lmbda == 0:
            return rows
        begun = [self.begun(tools, one, chance.random()) for one in dreams]
        retold = [one.marked_last(COMPLETED) for one in tools.grade(tools.sample(begun, n))]
        if self.alpha < 1:
            both = [dream for dream in dreams for _ in range(n)]
            same = self.same(tools, both, retold)
            retold = [
                one.with_numbers(same=float(means), alike=likeness(one.ids, dream.ids, self.max_edits))
                for one, dream, means in zip(retold, both, same, strict=True)
            ]
        return sorted([*rows, *retold], key=lambda one: one.group)

    def begun(self, tools: Tools, dream: Trajectory, share: float) -> Trajectory:
        """A dream's first tokens, by a ``share`` in [0, 1) of those that may be given, never the last. None where
        the model's window has no room for them."""
        given = int(share * (1 + int(self.prefix * (len(dream.ids) - 1))))
        fits = tools.prompt(dream, Plain(), given + self.rollouts.max_tokens)
        return tools.cut(dream, given if fits else 0)

    def same(self, tools: Tools, dreams: Sequence[Trajectory], retold: Sequence[Trajectory]) -> list[bool]:
        """Whether each text means what its dream does; not where a final answer, or room for a verdict, is missing."""
        if self.judge == "text":
            return [d.text.split() == r.text.split() for d, r in zip(dreams, retold, strict=True)]
        if self.judge == "claim":
            said = [[one.grade.claim if one.grade else None for one in each] for each in (dreams, retold)]
            return [d is not None and d == r for d, r in zip(*said, strict=True)]
        told = [r.told(dream=d.text, retold=r.text) for d, r in zip(dreams, retold, strict=True)]
        asked = [tools.prompt(one, SAME, VERDICT) for one in told]
        heard = tools.sample([one for one in asked if one], role=JUDGE, max_tokens=VERDICT, temperature=0.0)
        yes = iter([one.text.strip().lower().startswith("yes") for one in heard])
        return [one is not None and next(yes) for one in asked]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        own = stats.mark(COMPLETED)
        retold, each = own.any(dim=1), Divisor("selected", "row")
        if self.alpha < 1:
            same, alike = (stats.number(name).to(stats.dtype) for name in self.numbers)
            advantage = self.grpo.advantage(stats, self.gamma * same + (1 - self.gamma) * alike, retold)
            stats.report("retold/same", same[retold].mean())
            stats.report("retold/alike", alike[retold].mean())
            rest = 1 - self.alpha
            yield self.grpo.term("imitate", stats, advantage, where=own, mean_over=each, coefficient=rest)
        for name, share, where in (("distill", self.lmbda, own), ("dreams", 1 - self.lmbda, ~retold)):
            if weight := self.alpha * share:
                how: Any = {"where": where, "mean_over": each, "coefficient": weight}
                made = losses(self.divergence, TEACHER, self.loss_top_k, self.beta, self.temperature, **how)
                yield from (replace(one, name=one.name.replace("distill", name)) for one in made)


def likeness(retold: Sequence[int], dream: Sequence[int], most: int | None = None) -> float:
    """r_abs: 1 − z / the longer length, z the edits (tokens) between two texts; 0 from more than ``most`` edits on."""
    z = edit_distance(retold, dream)
    return 0.0 if most is not None and z > most else 1 - z / max(1, len(retold), len(dream))
