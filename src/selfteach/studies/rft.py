"""RFT: the baseline on one's own right answers; in the arena, sampled from the model as it is, once."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop

LAPTOP = Laptop(
    "table",
    {
        **SHORT, **PLAIN, "lr": 3e-4, "stored": 256, "per_prompt": 8, "prompts": 64, "steps": 100, "sft_steps": 0,
        "with_reference": False,
    },
)  # fmt: skip
