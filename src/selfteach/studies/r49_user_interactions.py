"""Learning from what the user said next; in the arena the verifier speaks."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "optim": "adamw_torch_fused", "lr": 3e-4, "follow_up": "feedback", "skip": 0,
        "per_prompt": 2, "steps": 150, "prompts": 32,
    },
)  # fmt: skip

ONLINE = "user-interactions --task tutor --steps 100"

STUDY = Study(
    method="user-interactions",
    claims=(
        Claim(
            says="Follow-ups alone teach: the student improves on what it was (personas, within about 15 steps)",
            variants={"trained": ONLINE, "untrained": "user-interactions --task tutor --steps 1 --lr 1e-12"},
            higher="trained",
            lower="untrained",
            may_fail=("trained", "untrained"),
        ),
    ),
)
