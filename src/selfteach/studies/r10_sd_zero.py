"""SD-Zero: first learn to revise, then distill the reviser."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, UNSURE, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "max_tokens": 96, "lr": 5e-4, "steps": 100, "prompts": 64, "warmup": 10,
        "srt_steps": 50, "srt_drafts": 1024, "loss_top_k": None, "mean_over": "sequences",
    },
)  # fmt: skip

SRT = "sd-zero --srt-drafts 384 --prompts 16 --warmup 0"
BOTH = f"{SRT} --srt-steps 12 --steps 12"
REVISION_ALONE = f"{SRT} --srt-steps 23 --steps 1"
DISTILL_ALONE = f"{SRT} --srt-steps 0 --steps 24"

STUDY = Study(
    method="sd-zero",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="Distilling the reviser adds to revision training alone: 60.3 against 57.6 (Qwen3-4B, 8 benchmarks)",
            variants={"sd-zero": BOTH, "revision training": REVISION_ALONE},
            higher="sd-zero",
            lower="revision training",
        ),
        Claim(
            says="Without revision training there is nothing to distill: 51.4 against 60.3 (base 49.8)",
            variants={"sd-zero": BOTH, "no revision training": DISTILL_ALONE},
            higher="sd-zero",
            lower="no revision training",
            may_fail=("no revision training",),
        ),
        Claim(
            says="Revision training makes answers long, distillation short again: 8458 to 3518 tokens",
            variants={"sd-zero": BOTH, "revision training": REVISION_ALONE},
            higher="revision training",
            lower="sd-zero",
            metric="eval/length",
        ),
    ),
)
