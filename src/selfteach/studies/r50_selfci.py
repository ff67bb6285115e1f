"""SelfCI: the two halves of a norm as two teachers."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "secrets", {**SHORT, **PLAIN, "lr": 3e-4, "notes": "given", "per_prompt": 2, "steps": 150, "prompts": 16}
)

BOTH = "selfci --task secrets --steps 100"

STUDY = Study(
    method="selfci",
    claims=(
        Claim(
            says="Both notes beat the one of what may be shared alone (ablation; share of complete answers)",
            variants={"both": BOTH, "allow": f"{BOTH} --disallow-weight 0"},
            higher="both",
            lower="allow",
        ),
        Claim(
            says="and that of what must not be shared alone, which makes the student silent (ablation)",
            variants={"both": BOTH, "disallow": f"{BOTH} --allow-weight 0"},
            higher="both",
            lower="disallow",
            may_fail=("disallow",),
        ),
        Claim(
            says="and reinforcement by the verifier's reward, 1 where an answer is complete and says nothing that it "
            "must not (CI-RL, GRPO), on as many answers a step",
            variants={"both": BOTH, "grpo": "grpo --task secrets --steps 100 --per-prompt 2 --prompts 16"},
            higher="both",
            lower="grpo",
        ),
    ),
)
