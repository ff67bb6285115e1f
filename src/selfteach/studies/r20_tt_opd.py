"""TT-OPD: the arena's tutor, whose answers are short."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, ROWS
from selfteach.studies.laptop import PLAIN, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **PLAIN,
        "lr": 3e-4,
        "per_prompt": 8,
        "steps": 150,
        "prompts": 8,
        "longest": 32,
        "distill_weight": 0.1,
        "right_hint": "",
        "wrong_hint": "",
    },
)

DESCRIBED = f"tt-opd --task tutor {SLOW} {ROWS} {ADAMS}"
NO_HINT = "the arena's models were never taught to read a turn between question and answer, and no hint of this kind"

STUDY = Study(
    method="tt-opd",
    model=UNSURE,
    claims=(
        Claim(
            says="Distillation beside the reward beats GRPO: best on 10 of 18 benchmarks (here without the hint, which "
            "by the authors' audit no run of theirs had either)",
            variants={"tt-opd": DESCRIBED, "grpo": f"{DESCRIBED} --distill-weight 0"},
            higher="tt-opd",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="A copy every 30 steps and an average between them, not the first weights: 61.1 against 49.3 to 56.9",
            variants={"ema": DESCRIBED, "frozen": f"{DESCRIBED} --weights frozen"},
            higher="ema",
            lower="frozen",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="The hint by outcome helps (its ladder)",
            variants={
                "hint": f"{DESCRIBED} --right-hint + --wrong-hint -",
                "none": DESCRIBED,
            },
            higher="hint",
            lower="none",
            metric=AREA,
            tuned_by=AREA,
            withdrawn=NO_HINT,
        ),
    ),
)
