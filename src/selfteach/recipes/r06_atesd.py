"""Card 06: adaptive teacher exposure for self-distillation (ATESD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from selfteach.control.beta_policy import BetaPolicy
from selfteach.control.controller import ControllerSpec
from selfteach.recipes.base import ReferenceProbe, require
from selfteach.recipes.claim import Claim
from selfteach.recipes.r01_opsd import OPSD, TEACHER
from selfteach.roles.private import Partial
from selfteach.roles.role import Role

ARENA = "atesd --lr 1e-4 --steps 40"
FIXED = f"{ARENA} --no-adaptive"


@dataclass(frozen=True)
class ATESD(OPSD):
    """OPSD whose teacher reads a share α of the reference solution, found while training by a learned policy.

    "Adaptive Teacher Exposure for Self-Distillation in LLM Reasoning" (arXiv 2605.11458, card 06). Of a reference's m
    segments the teacher reads the first ⌊α m⌋ and always the final answer; α is one number for the whole batch:

        L = mean over rollouts of (1/|y|) Σ_t KL( q_α(· | x, y*_α, y_<t) ‖ p(· | x, y_<t) )

    α ~ Beta, drawn every ``hold`` steps by a policy that sees the state of training and learns by REINFORCE from the
    fall of the student's NLL of held-back reference texts over the steps that follow (``BetaPolicy``). α = 1 is OPSD,
    α = 0 the answer alone. Frozen teacher, LoRA and OPSD's clip are inferred from its base; no code is released.
    """

    title = "Adaptive Teacher Exposure for Self-Distillation"
    suite = "first"
    source = "arXiv 2605.11458, card 06"
    formula = "mean_y (1/|y|) Σ_t KL(q_α‖p), α ~ Beta policy(state), R = Σ γ^(i−1) (ℓ_{i−1} − ℓ_i)₊ + λ ḡ"
    world = "trail"
    claims = (
        Claim(
            says="The mismatch of teacher and student rises with the share of the reference that the teacher reads",
            variants={f"α = {a}": f"{FIXED} --exposure {a} --steps 5 --eval-problems 0" for a in (1, 0.25)},
            higher="α = 1",
            lower="α = 0.25",
            metric="first divergence/teacher",
        ),
        Claim(
            says="A learned exposure beats the full one of OPSD: 44.4 to 43.4 (1.7B), 67.1 to 63.6 (8B)",
            variants={"learned": ARENA, "full": f"{FIXED} --exposure 1"},
            higher="learned",
            lower="full",
        ),
    )

    exposure: float = 1.0
    """α: share of the reference's segments that the teacher reads; with ``adaptive`` the policy sets it each step."""
    adaptive: bool = True
    """Let the policy find the exposure (paper), or keep it as given (the paper's fixed sweep)."""
    policy: BetaPolicy = field(default_factory=BetaPolicy)
    probe_field: str = "answer"
    """The private field whose likelihood measures progress: the reference answer in the paper."""
    probe_examples: int = 16
    """Examples kept out of training for that measure (ours; not in the paper)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.exposure <= 1, f"exposure must lie in [0, 1], got {self.exposure}")
        require(self.view == "solution", "atesd shows a part of the solution: --view must be solution")
        require(self.probe_examples >= 1, f"probe_examples must be at least 1, got {self.probe_examples}")

    @classmethod
    def presets(cls) -> Mapping[str, OPSD]:
        arena = super().presets()["arena"]
        assert isinstance(arena, cls)
        # The arena's models never begin with a bare answer, and there the probe's NLL falls by 1e-4 nats a step.
        policy = replace(arena.policy, answer_weight=0.02)
        return {"paper": cls(), "arena": replace(arena, probe_field="worked", policy=policy)}

    @property
    def teachers(self) -> Mapping[str, Role]:
        return {TEACHER: replace(super().teachers[TEACHER], view=Partial(self.exposure))}

    @property
    def controllers(self) -> Mapping[str, ControllerSpec]:
        return {"exposure": self.policy} if self.adaptive else {}

    @property
    def reference_probe(self) -> ReferenceProbe | None:
        return ReferenceProbe(self.probe_field, self.probe_examples) if self.adaptive else None
