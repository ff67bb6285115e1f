"""SCOPE: right and wrong rollouts on two weighted paths."""

from __future__ import annotations

from selfteach.studies.grpo import ROWS
from selfteach.studies.laptop import ADAM, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, "teacher": "arena:tutor-large", "estimator": "full", "per_prompt": 8, "steps": 150,
        "prompts": 8,
    },
)  # fmt: skip

SAME = f"--task tutor {SLOW} {ROWS} --max-grad-norm none"
SCOPE = f"scope {SAME}"

STUDY = Study(
    method="scope",
    model=UNSURE,
    claims=(
        Claim(
            says="The two paths beat distillation of every rollout: Avg@32 55.2 against 52.3 (R1-Distill-Qwen-1.5B)",
            variants={
                "scope": SCOPE,
                "opd": f"exopd --reward-scale 1 {SAME}",
            },
            higher="scope",
            lower="opd",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="Wrong rollouts are to be weighted towards those the teacher finds likely: turned round, 42.7 falls "
            "to 38.6 (AIME24, Avg@32)",
            variants={"scope": SCOPE, "turned": f"{SCOPE} --teacher-weight high-perplexity"},
            higher="scope",
            lower="turned",
            metric=AREA,
            tuned_by=AREA,
            withdrawn="of this student's wrong answers the teacher finds all about equally likely: the weights turned "
            "round, the first gradient's norm changes by 0.002 %, and no answer in four seeds",
        ),
    ),
)
