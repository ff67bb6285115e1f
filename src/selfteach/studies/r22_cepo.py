"""CEPO: GRPO whose credit is found by contrasting a right answer with a wrong one."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, ROWS
from selfteach.studies.laptop import ADAM, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, "lora_alpha": 128, "lr": 2e-4, "mix_steps": 75, "per_prompt": 8, "steps": 150,
        "prompts": 8,
    },
)  # fmt: skip

CEPO = f"cepo {SLOW} {ROWS} {ADAMS} --mix-steps 20"

STUDY = Study(
    method="cepo",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="Evidence helps GRPO: 43.4 against 41.2 (Qwen3-VL-2B, average of five benchmarks)",
            variants={"cepo": CEPO, "grpo": f"{CEPO} --mix 0"},
            higher="cepo",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="and the contrast with a wrong answer helps RLSD: 43.4 against 40.1 (the same)",
            variants={"cepo": CEPO, "rlsd": f"{CEPO} --contrast student"},
            higher="cepo",
            lower="rlsd",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
