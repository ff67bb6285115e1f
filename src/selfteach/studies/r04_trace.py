"""TRACE: a KL on the spans that an annotator marks, faded out, beside GRPO."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, Laptop
from selfteach.studies.study import Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "key_weight": 0.0, "error_weight": 1.0, "clip_entry": None, "kl_start": 1.0,
        "kl_hold": 20, "sync_every": 50, "per_prompt": 4, "steps": 150, "prompts": 32,
    },
)  # fmt: skip

STUDY = Study(
    method="trace",
    task="tutor",
    claims=(
        Claim(
            says="A KL on the marked spans, soon faded out, beats GRPO alone: 81.5 against 78.8 (Qwen3-8B)",
            variants={
                "trace": "trace --steps 80",
                "grpo": "grpo --task tutor --steps 80 --per-prompt 4 --prompts 32 --lr 1e-3 --betas 0.9 0.95 "
                "--clip-high 0.28",
            },
            higher="trace",
            lower="grpo",
        ),
        Claim(
            says="The annotator's spans do better than as many random tokens",
            variants={"marked": "trace --steps 80", "random": "trace --steps 80 --spans random"},
            higher="marked",
            lower="random",
        ),
    ),
)
