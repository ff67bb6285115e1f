"""SRPO: GRPO for some rollouts, self-distillation for the others."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, REINFORCED, ROWS
from selfteach.studies.laptop import ADAM, MUTE, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {**SHORT, **ADAM, **MUTE, "lr": 3e-4, "per_prompt": 8, "update_rate": 0.01, "steps": 150, "prompts": 8},
)  # fmt: skip

SRPO = f"srpo {SLOW} {ROWS} {ADAMS}"

STUDY = Study(
    method="srpo",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="Routing beats reinforcement alone: 77.4 against 74.0 after ten hours (Qwen3-8B, five benchmarks)",
            variants={"srpo": SRPO, "grpo": f"{REINFORCED} --mean-over tokens"},
            higher="srpo",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="and distillation alone, which flattens: 77.4 against 71.1 (the same)",
            variants={
                "srpo": SRPO,
                "sdpo": f"sdpo --feedback never --alpha 0.5 --student-top-k 100 {SLOW} {ROWS} {ADAMS}",
            },
            higher="srpo",
            lower="sdpo",
            tuned_by=AREA,
            looked="what the paper saw, that distillation alone flattens, does not happen here: it ends at 0.97",
        ),
    ),
)
