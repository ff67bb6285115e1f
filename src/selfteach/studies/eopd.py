"""EOPD: a forward KL where the teacher is unsure."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, SHORT, SOME, UNSURE, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "threshold": 0.4, "steps": 150, "prompts": 64}
)  # fmt: skip

EOPD = f"eopd --steps 16 {SOME} --eval-every 2 --eval-samples 8 --eval-problems 128"

STUDY = Study(
    method="eopd",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="A forward KL where the teacher is unsure beats sampled distillation: Pass@8 +1.4 to +5.1",
            variants={"eopd": EOPD, "sampled": f"{EOPD} --forward-weight 0"},
            higher="eopd",
            lower="sampled",
            metric="auc eval/pass@8",
            tuned_by="auc eval/pass@8",
            withdrawn="the arena's teacher is sure of every token that this student writes, at the rate that is best "
            "for both: the forward KL never acts, and both sides are the same run",
        ),
    ),
)
