"""vOPD: sampled-token distillation with a control variate."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, SHORT, SLOW, SOME, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "steps": 150, "prompts": 64}
)  # fmt: skip

STUDY = Study(
    method="vopd",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="The baseline beats plain sampled-token distillation (abstract; math and science)",
            variants={"baseline": f"vopd {SLOW} {SOME}", "none": f"vopd {SLOW} {SOME} --baseline none"},
            higher="baseline",
            lower="none",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
