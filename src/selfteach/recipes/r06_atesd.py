"""Adaptive teacher exposure for self-distillation (ATESD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from selfteach.recipes.kit import *
from selfteach.recipes.r01_opsd import OPSD


@settings
class ATESD(OPSD):
    """OPSD whose teacher reads a share α of the reference solution, found while training by a learned policy.

    "Adaptive Teacher Exposure for Self-Distillation in LLM Reasoning" (arXiv 2605.11458). Of a reference's m
    segments the teacher reads the first ⌊α m⌋ and always the final answer; α is one number for the whole batch:

        L = mean over rollouts of (1/|y|) Σ_t KL( q_α(· | x, y*_α, y_<t) ‖ p(· | x, y_<t) )

    α ~ Beta, drawn every ``hold`` steps by a policy that sees the state of training and learns by REINFORCE from the
    fall of the student's NLL of held-back reference texts over the steps that follow (``BetaPolicy``). α = 1 is OPSD,
    α = 0 the answer alone. Frozen teacher, LoRA and OPSD's clip are inferred from its base; no code is released.
    """

    name = "atesd"
    title = "Adaptive Teacher Exposure for Self-Distillation"
    source = "https://arxiv.org/abs/2605.11458"
    formula = "mean_y (1/|y|) Σ_t KL(q_α‖p), α ~ Beta policy(state), R = Σ γ^(i−1) (ℓ_{i−1} − ℓ_i)₊ + λ ḡ"
    presets = {"paper": {}}

    exposure: UnitInterval = 1.0
    """α: share of the reference's segments that the teacher reads; with ``adaptive`` the policy sets it each step."""
    adaptive: bool = True
    """Let the policy find the exposure (paper), or keep it as given (the paper's fixed sweep)."""
    policy: BetaPolicy = BetaPolicy()
    probe_field: str = "answer"
    """The private field whose likelihood measures progress: the reference answer in the paper."""
    probe_examples: PositiveRows = 16
    """Examples kept out of training for that measure (ours; not in the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.view == "solution", "atesd shows a part of the solution: --view must be solution")

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: replace(super().teachers[TEACHER], view=Partial(self.exposure))}

    @property
    def controllers(self) -> Mapping[str, ControllerSpec]:
        return {"exposure": self.policy} if self.adaptive else {}

    @property
    def reference_probe(self) -> ReferenceProbe | None:
        return ReferenceProbe(self.probe_field, self.probe_examples) if self.adaptive else None
