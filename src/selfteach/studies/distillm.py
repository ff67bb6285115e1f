"""DistiLLM: a skewed KL, on the student's answers as far as needed."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FAST, FEW, SHORT, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, "teacher": "arena:tutor-large", "reference": "worked", "steps": 150, "prompts": 64,
        "check_every": 10, "tolerance": 0.02, "replay_capacity": 512,
    },
)  # fmt: skip

DISTILLM = f"distillm {FAST} {FEW} --no-adaptive --student-share 1"

STUDY = Study(
    method="distillm",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="A skewed reverse KL beats the generalized JSD of GKD on the student's own answers",
            variants={
                # A store that is never full: every answer is fresh, as GKD's are.
                "skewed": f"{DISTILLM} --replay-capacity 1000000",
                "gkd": f"gkd {FAST} {FEW} --mean-over tokens",
            },
            higher="skewed",
            lower="gkd",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="The adaptive share does as well as answers of the student alone, which cost more to write",
            variants={"adaptive": f"distillm {FAST} {FEW}", "own": DISTILLM},
            higher="adaptive",
            lower="own",
            tuned_by=AREA,
            rule=Within(0.05),
            withdrawn="on problems that are always new the held-out loss only falls, so that the share stays at 0 "
            "(control/student_share): the data's answers would be compared with one's own",
        ),
    ),
)
