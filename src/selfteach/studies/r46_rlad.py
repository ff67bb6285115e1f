"""RLAD: the teacher stands in the importance ratio."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, ROWS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **PLAIN,
        "teacher": "arena:tutor-large",
        "lr": 3e-4,
        "per_prompt": 8,
        "steps": 150,
        "prompts": 8,
    },
)

SAME = f"--task tutor {SLOW} {ROWS} {ADAMS} --clip-high 0.28 --scale population"
RLAD = f"rlad {SAME}"

STUDY = Study(
    method="rlad",
    model=UNSURE,
    claims=(
        Claim(
            says="The anchored ratio beats GRPO: 0.90 against 0.70 (Qwen3-0.6B, Knights and Knaves, 2K context)",
            variants={"rlad": RLAD, "grpo": f"{RLAD} --alpha 1"},
            higher="rlad",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="and GRPO with a KL to the teacher: 0.90 against 0.86 (the same)",
            variants={"rlad": RLAD, "kdrl": f"dgrpo {SAME}"},
            higher="rlad",
            lower="kdrl",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
