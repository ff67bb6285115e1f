"""UniSD: what each part adds to self-distillation from demonstrations."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, SLOW, SOME, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **PLAIN, "lr": 3e-4, "steps": 150, "prompts": 32, "negatives": 1,
        "wrong_tokens": 64,
    },
)  # fmt: skip

FULL = f"unisd --task tutor {SLOW} {SOME}"
BASE = f"{FULL} --agreement none --contrast 0 --features 0 --ema-decay none"

STUDY = Study(
    method="unisd",
    model=UNSURE,
    claims=(
        Claim(
            says="All parts together beat plain self-distillation (73.3 overall, Qwen2.5-7B; strongest baseline 70.5)",
            variants={"full": FULL, "base": BASE},
            higher="full",
            lower="base",
            metric=AREA,
            tuned_by=AREA,
            withdrawn="the arena's model reads neither demonstrations of other problems nor a wrong one: two of the "
            "parts weigh and push by texts that mean nothing to it",
        ),
        Claim(
            says="An averaged teacher beats the initial one",
            variants={"ema": f"{BASE} --ema-decay 0.9 --ema-every 1", "frozen": BASE},
            higher="ema",
            lower="frozen",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
