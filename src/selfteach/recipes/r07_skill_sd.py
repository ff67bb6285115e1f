"""Skill-SD: skills made of an agent's own rollouts, shown to its teacher alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from selfteach.recipes.kit import *

SKILL = "{problem}\n\n--- a skill learned from earlier attempts ---\n{skill}\n--- end of the skill ---"
ASK = (
    "{problem}\n\n--- an attempt ---\n{attempt}\n--- end of the attempt; its reward: {earned} ---\n\n"
    "Write down as short JSON what helps with this task the next time, in three fields: success_analysis (what went "
    "well), mistake_analysis (what went wrong) and golden_workflow (the steps to take)."
)
STORE = "skills"


@settings
class SkillSD(Recipe):
    """Reinforce rollouts, and distill from a copy that reads a skill which such rollouts have left behind.

    "Skill-SD: Skill-Conditioned Self-Distillation for Multi-turn LLM Agents" (arXiv 2604.10674). The student π answers
    the plain prompt x; the teacher q, the same weights at the batch's start without gradient, reads x with a skill S
    of x's own bank, and scores the student's tokens. With ρ = π/π_sampling and l = log π(y_t|x) − log q(y_t|x, S),

        L = L_GRPO + λ · mean over the tokens with a skill of ρ ( exp(−l) − 1 + l )

    whose gradient is ρ l ∇log π: that of the reverse KL. Without a skill in the bank a rollout has no second part.
    Skills are retrieved by an upper confidence bound over the mean rewards that came with them. Here the bank is
    brought up to date behind each step's rollouts, for later steps; the paper's is so asynchronously. Learning rate,
    group size, c, the bank's size and the summarizer's words could not be read: these defaults are ours.
    """

    name = "skill-sd"
    title = "Skill-Conditioned Self-Distillation"
    source = "https://arxiv.org/abs/2604.10674"
    formula = "L_GRPO + λ mean_t ρ ( exp(−l) − 1 + l ),  l = log π(y_t|x) − log q(y_t|x, S)"
    plays = True
    presets = {"paper": {}, "frozen": {"weights": "frozen"}, "skill-in-prompt": {"reader": "student"}}
    sizes = {**Recipe.sizes, "summary_tokens": "tokens"}

    rollouts: Rollouts = Rollouts(per_prompt=8, max_turns=40)
    optimization: Optimization = Optimization(lr=1e-6)
    grpo: GRPOSettings = GRPOSettings()
    summaries: Summarizer = Summarizer()
    distill_weight: NonNegativeFloat = 0.001
    """λ, weight of the distillation (paper: 0.001; above 0.005 it fights the reward; 0: GRPO)."""
    weights: Literal["live", "frozen"] = "live"
    """Whose scores teach: the student's at the batch's start (paper), or the initial policy's (its ablation)."""
    reader: Literal["teacher", "student"] = "teacher"
    """Who is shown the skill: the teacher, or the student itself while it trains (the paper's comparison: it is tested
    without)."""
    summarize: Literal["all", "best"] = "all"
    """Which rollouts of a group become skills: each, or the first of the highest reward."""
    summarize_first: bool = False
    """Make a step's skills before any is retrieved, so that they are of use at once (paper: of later steps)."""
    ucb_c: NonNegativeFloat = 1.0
    """c of the bound mean + c √(ln N / n): how much a skill of few uses is preferred (0: greedy)."""
    skills_per_task: PositiveInt = 16
    """Skills kept of one task; the oldest goes."""
    bank_capacity: PositiveInt = 10_000
    """Skills kept of all tasks, in each process."""
    skill_template: str = SKILL
    """What the reader is shown; it names {problem} and {skill}."""

    def __post_init__(self) -> None:
        require(
            self.rollouts.per_prompt >= 2,
            "skill-sd compares rollouts of one prompt: per_prompt must be at least 2",
        )
        require(
            self.reader == "teacher" or not self.summarize_first,
            "a student that reads a skill needs it before it answers: leave out summarize_first",
        )

    @property
    def view(self) -> Told:
        return Told(self.skill_template, "skill")

    @property
    def teachers(self) -> Mapping[str, Role]:
        if self.reader == "student" or not self.distill_weight:
            return {}
        weights: Weights = Live() if self.weights == "live" else Frozen()
        return {TEACHER: Role(weights, self.view, self.student_thinking, signal="sampled")}

    @property
    def writers(self) -> Mapping[str, Role]:
        return self.summaries.writers(self.student_thinking)

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        bank = Bank(tools.store(STORE).notes, self.bank_capacity, self.skills_per_task)
        shown = {} if self.summarize_first else self.retrieved(bank, prompts)
        asked = [self.asked(tools, one, shown) for one in prompts] if self.reader == "student" else prompts
        written = tools.grade(tools.play(asked, self.rollouts.per_prompt))
        if self.summarize_first:
            self.remember(tools, bank, written)
            shown = self.retrieved(bank, prompts)
        for group, rows in by_group(written).items():
            if group in shown:
                bank.used(shown[group], sum(map(reward_of, rows)) / len(rows))
        if not self.summarize_first:
            self.remember(tools, bank, written)
        return [one.told(skill=shown[one.group]["text"]) if one.group in shown else one for one in written]

    def retrieved(self, bank: Bank, prompts: Sequence[Prompt]) -> dict[int, Experience]:
        """The skill of each prompt whose bank has one, by group."""
        found = {one.group: UCB(self.ucb_c)(bank, one.example) for one in prompts}
        return {group: one for group, one in found.items() if one is not None}

    def asked(self, tools: Tools, one: Prompt, shown: Mapping[int, Experience]) -> Prompt:
        """What a student that reads skills is asked: the plain prompt where there is none, or no room for it."""
        if one.group not in shown:
            return one
        return tools.prompt(one.told(skill=shown[one.group]["text"]), self.view) or one

    def remember(self, tools: Tools, bank: Bank, written: Sequence[Trajectory]) -> None:
        """Put skills into the bank that are made of these rollouts."""
        groups = by_group(written).values()
        chosen = written if self.summarize == "all" else [max(rows, key=reward_of) for rows in groups]
        about = {i: one.told(earned=f"{reward_of(one):g}") for i, one in enumerate(chosen)}
        texts = self.summaries.written(tools, about, Told(ASK, "summary"), lambda one: one.text)
        for i, text in texts.items():
            bank.add(chosen[i].example.key, chosen[i].example.problem, text)

    def terms(self, stats: Statistics) -> Iterable[Term]:
        yield self.grpo.term("policy", stats)
        if self.teachers:
            yield importance_k3_term(stats, coefficient=self.distill_weight)
