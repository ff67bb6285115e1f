"""TSD-KD: imitate, be ranked, decide.

The ranking is of two tokens. The paper's ten reach, among 101 characters, down to what nobody would write here: putting
those into the teacher's order is then what the ranking teaches, and little else is learned (area under the curve 0.58
against GKD's 0.90, four seeds; without the ranking, or with it on two tokens, a seed learns as GKD does).
"""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, FAST, FEW, SHORT, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, "teacher": "arena:tutor-large", "entropy_weight": 0.1, "student_top_k": 2, "steps": 150,
        "prompts": 64,
    },
)  # fmt: skip

TSD = f"tsd-kd --task tutor {FAST} {FEW}"

STUDY = Study(
    method="tsd-kd",
    model=UNSURE,
    claims=(
        Claim(
            says="The three losses beat plain GKD on ten benchmarks (abstract)",
            variants={"tsd-kd": TSD, "gkd": f"{TSD} --no-weighted --alpha 0 --entropy-weight 0"},
            higher="tsd-kd",
            lower="gkd",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Its entropy term leaves a surer student (the robust part of the card's small check)",
            variants={"without": f"{TSD} --entropy-weight 0", "with": f"{TSD} --entropy-weight 0.1"},
            higher="without",
            lower="with",
            metric="entropy/student",
            sweep=(),  # the rate alone moves entropy
        ),
    ),
)
