"""OmniOPD: a teacher that only writes."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, SLOW, SOME, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "teacher": "arena:tutor-large", "lr": 3e-4, "chunks": 2, "continuations": 4,
        "chunk_tokens": 4, "steps": 100, "prompts": 32,
    },
)  # fmt: skip

OMNI = f"omniopd --task tutor {SLOW} {SOME}"

STUDY = Study(
    method="omniopd",
    model=UNSURE,
    claims=(
        Claim(
            says="Verified by continuations it beats distillation that reads the teacher's log-probs: up to 28.6 % "
            "more (math, relative; with the KL to the initial model that is its own)",
            variants={
                "omniopd": OMNI,
                "opd": f"vopd --task tutor {SLOW} {SOME} --baseline none --lr 3e-4",
            },
            higher="omniopd",
            lower="opd",
            metric=AREA,
            tuned_by=AREA,
            looked="--chunks 6 --continuations 8 in place of two and four ends no higher (0.75 and 0.89 in seeds 0 and "
            "1, against 0.83 and 0.89); the other side reads the log-probs of a teacher that is right in 0.999, at "
            "every token",
        ),
        Claim(
            says="Without the KL to the initial model training collapses: 8.3 against 69.1 (math average, second hand)",
            variants={"anchored": OMNI, "free": f"{OMNI} --anchor 0"},
            higher="anchored",
            lower="free",
            tuned_by=AREA,
            may_fail=("free",),
        ),
        Claim(
            says="Places where the student is unsure are worth more than any places (the same budget)",
            variants={"entropy": OMNI, "random": f"{OMNI} --places random"},
            higher="entropy",
            lower="random",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
