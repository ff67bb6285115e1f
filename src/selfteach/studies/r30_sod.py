"""SOD: a teacher whose word counts less at turns where the student has drifted away from it."""

from __future__ import annotations

from selfteach.studies.laptop import EPISODES, PLAIN, SHORT, Laptop
from selfteach.studies.study import AREA, Claim, Study

RATE = {**PLAIN, "lr": 3e-4, "betas": (0.9, 0.95)}
LAPTOP = Laptop(
    "doors",
    {**EPISODES, **RATE, "teacher": "arena:doors-expert", "per_prompt": 8, "steps": 40, "prompts": 4},
    {
        "tutor": {
            **SHORT,
            **PLAIN,
            "teacher": "arena:tutor-large",
            "lr": 3e-4,
            "per_prompt": 8,
            "steps": 150,
            "prompts": 8,
        }
    },
)

SOD = "sod --task doors --eval-every 4 --eval-samples 1"

STUDY = Study(
    method="sod",
    claims=(
        Claim(
            says="Weighing turns by their gap beats weighing all alike: 42.98 against 34.70 (Qwen3-1.7B, average@32 of "
            "four tests)",
            variants={"sod": SOD, "uniform": f"{SOD} --step-weight uniform"},
            higher="sod",
            lower="uniform",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="An uncapped weight is worse: 42.98 against 38.10 (the same)",
            variants={"sod": SOD, "uncapped": f"{SOD} --max-weight none"},
            higher="sod",
            lower="uncapped",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="A teacher beside the reward beats the reward alone: 36.27 against 25.39 (its baseline OPD and GRPO; "
            "the same)",
            variants={"opd": f"{SOD} --step-weight uniform", "grpo": f"{SOD} --opd-weight 0"},
            higher="opd",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
