"""The baseline with a skewed KL and as few fresh answers as will do (DistiLLM)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from selfteach.recipes.kit import *

REPLAY = "replay"


@settings
class DistiLLM(Recipe):
    """Pull the student to a mixture of itself and a larger model, on given answers first and on its own as needed.

    "DistiLLM: Towards Streamlined Distillation for Large Language Models" (arXiv 2402.03898). With the teacher p, the
    student q and a small α, over the full vocabulary,

        SKL  = KL( p ‖ α p + (1 − α) q ),     SRKL = KL( q ‖ (1 − α) p + α q )        (``loss``)

    With chance φ a step trains on the student's answers, else on the data's. φ starts at ``student_share`` and is
    raised when the loss on held-out references has risen. The student's answers are kept: of its steps a falling share,
    1 − step/steps, writes new ones, the others draw from the ``replay_capacity`` kept last (from as soon as there are
    so many).
    """

    name = "distillm"
    title = "DistiLLM"
    source = "https://arxiv.org/abs/2402.03898"
    formula = "mean_t KL(q ‖ (1−α) p + α q),  y ~ φ q (replayed) + (1−φ) data"
    presets = {"paper": {}, "skl": {"loss": "skl"}}

    rollouts: Rollouts = Rollouts(max_tokens=256)
    optimization: Optimization = Optimization(
        lr=5e-4, prompts=128, steps=1800, schedule="cosine", weight_decay=0.01
    )
    teacher: str = "Qwen/Qwen3-8B"
    """The larger model of the same tokenizer that is distilled: a folder, a hub id or arena:NAME."""
    loss: Literal["srkl", "skl"] = "srkl"
    """Skew reverse KL, or skew KL (released scripts have both)."""
    alpha: OpenUnit = 0.1
    """α, the skew: the share of its own side in the mixture (paper: 0.1)."""
    student_share: UnitInterval = 0.0
    """φ, how often a step's answers are the student's own; with ``adaptive`` where it begins (paper: 0)."""
    adaptive: bool = True
    """Raise φ where the held-out loss has risen (paper), or keep it as given."""
    scheduler: RisingShare = RisingShare()
    replay_capacity: PositiveInt = 1000
    """Answers of the student that each process keeps (released scripts: 1000)."""
    replay_ratio: Literal["decreasing", "constant", "increasing"] = "decreasing"
    """Of the student's steps, how many write new answers once so many are kept: 1 − step/steps (paper), half, or
    step/steps (released options)."""
    reference: str = "solution"
    """The private field that holds the data's answers."""
    probe_examples: PositiveRows = 16
    """Examples kept out of training whose references' likelihood is the held-out loss."""
    mean_over: Literal["tokens", "sequences"] = "tokens"
    """Mean over all tokens (released code), or mean of per-answer token means."""

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: Role(External(self.teacher), Plain(), self.student_thinking)}

    @property
    def controllers(self) -> Mapping[str, ControllerSpec]:
        return {"student_share": self.scheduler.begun(self.student_share)} if self.adaptive else {}

    @property
    def reference_probe(self) -> ReferenceProbe | None:
        return ReferenceProbe(self.reference, self.probe_examples) if self.adaptive else None

    def rollout(self, tools: Tools, prompts: Sequence[Prompt], step: int) -> Sequence[Trajectory]:
        random, n = tools.random("source"), self.rollouts.per_prompt
        chance, kept = random.random(), tools.store(REPLAY).trajectories
        if chance >= self.student_share:
            return tools.quote(prompts, self.reference)
        if chance < self.student_share * self.fresh(step) or len(kept) < self.replay_capacity:
            written = tools.sample(prompts, n)
            kept += written
            del kept[: max(0, len(kept) - self.replay_capacity)]
            return written
        groups = [prompt.group for prompt in prompts for _ in range(n)]
        again = random.sample(kept, min(len(kept), len(groups)))
        return [replace(one, group=group) for one, group in zip(again, groups, strict=False)]

    def fresh(self, step: int) -> float:
        """The share of the student's steps that write new answers."""
        done = min(1.0, step / self.optimization.steps)
        return {"decreasing": 1 - done, "constant": 0.5, "increasing": done}[self.replay_ratio]

    def terms(self, stats: Statistics) -> Iterable[Term]:
        kind = SkewReverseKL if self.loss == "srkl" else SkewForwardKL
        yield Match(
            name="distill", target=FromRole(TEACHER), divergence=kind(self.alpha), mean_over=self.mean_over
        )
