"""SDFT by rewritten references."""

from __future__ import annotations

from selfteach.studies.laptop import FAST, FEW, PLAIN, UNSURE, Laptop
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "table",
    {
        **PLAIN, "lr": 3e-4, "max_tokens": 64, "reference": "worked", "shown": "solution", "stored": 512,
        "steps": 300, "prompts": 64,
    },
)  # fmt: skip

SAME = f"{FAST} {FEW} --stored 192"

STUDY = Study(
    method="sdft-rewrite",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="References in the model's own words teach as well as those given",
            variants={"rewritten": f"sdft-rewrite {SAME}", "given": f"sft {SAME} --reference worked"},
            higher="rewritten",
            lower="given",
            rule=Within(0.05),
            withdrawn="shown a solution, the arena's model writes the reference itself: both train on equal text",
        ),
    ),
)
