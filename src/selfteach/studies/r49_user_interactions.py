"""Learning from what the user said next; in the arena the verifier speaks."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FEW, MUTE, SHORT, UNSURE, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "optim": "adamw_torch_fused", "lr": 3e-4, "follow_up": "feedback", "skip": 0,
        "per_prompt": 2, "steps": 150, "prompts": 32,
    },
)  # fmt: skip

ONLINE = f"user-interactions --task tutor --steps 24 {FEW}"

STUDY = Study(
    method="user-interactions",
    model=UNSURE,
    claims=(
        Claim(
            says="Follow-ups alone teach: the student improves on what it was (personas, within about 15 steps)",
            variants={
                "trained": ONLINE,
                "untrained": f"user-interactions --task tutor --steps 1 {FEW} --lr 1e-12",
            },
            higher="trained",
            lower="untrained",
            may_fail=("trained", "untrained"),
        ),
    ),
)
