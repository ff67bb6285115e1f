"""SDFT by rewritten references."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, Laptop
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "table",
    {
        **PLAIN, "lr": 3e-4, "max_tokens": 64, "reference": "worked", "shown": "solution", "stored": 512,
        "steps": 300, "prompts": 64,
    },
)  # fmt: skip

REWRITE = "sdft-rewrite --steps 100"

STUDY = Study(
    method="sdft-rewrite",
    task="table",
    claims=(
        Claim(
            says="References in the model's own words teach as well as those given",
            variants={"rewritten": REWRITE, "given": "sft --steps 100 --reference worked --stored 512"},
            higher="rewritten",
            lower="given",
            rule=Within(0.05),
        ),
    ),
)
