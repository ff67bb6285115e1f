"""OmniOPD: a teacher that only writes."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "teacher": "arena:tutor-large", "lr": 3e-4, "chunks": 2, "continuations": 4,
        "chunk_tokens": 4, "steps": 100, "prompts": 32,
    },
)  # fmt: skip

OMNI = "omniopd --task tutor --steps 60"

STUDY = Study(
    method="omniopd",
    claims=(
        Claim(
            says="Verified by continuations it beats distillation that reads the teacher's log-probs: up to 28.6 % "
            "more (math, relative; with the KL to the initial model that is its own)",
            variants={
                "omniopd": OMNI,
                "opd": "vopd --task tutor --steps 60 --baseline none --prompts 32 --lr 3e-4",
            },
            higher="omniopd",
            lower="opd",
        ),
        Claim(
            says="Without the KL to the initial model training collapses: 8.3 against 69.1 (math average, second hand)",
            variants={"anchored": OMNI, "free": f"{OMNI} --anchor 0"},
            higher="anchored",
            lower="free",
            may_fail=("free",),
        ),
        Claim(
            says="Places where the student is unsure are worth more than any places (the same budget)",
            variants={"entropy": OMNI, "random": f"{OMNI} --places random"},
            higher="entropy",
            lower="random",
        ),
    ),
)
