"""TRACE: a KL on the spans that an annotator marks, faded out, beside GRPO."""

from __future__ import annotations

from selfteach.studies.grpo import ADAMS, REINFORCED, ROWS
from selfteach.studies.laptop import ADAM, MUTE, SHORT, SLOW, UNSURE, Laptop
from selfteach.studies.study import AREA, Claim, Study

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT, **ADAM, **MUTE, "key_weight": 0.0, "error_weight": 1.0, "clip_entry": None, "kl_start": 1.0,
        "kl_hold": 20, "sync_every": 50, "per_prompt": 4, "steps": 150, "prompts": 32,
    },
)  # fmt: skip

TRACE = f"trace {SLOW} {ROWS} {ADAMS} --kl-hold 5 --kl-decay 15 --sync-every 5"

STUDY = Study(
    method="trace",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="A KL on the marked spans, soon faded out, beats GRPO alone: 81.5 against 78.8 (Qwen3-8B)",
            variants={
                "trace": TRACE,
                "grpo": REINFORCED,
            },
            higher="trace",
            lower="grpo",
            metric=AREA,
            tuned_by=AREA,
        ),
        Claim(
            says="The annotator's spans do better than as many random tokens",
            variants={"marked": TRACE, "random": f"{TRACE} --spans random"},
            higher="marked",
            lower="random",
            metric=AREA,
            tuned_by=AREA,
        ),
    ),
)
