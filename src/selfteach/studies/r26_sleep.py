"""Sleep: new facts, learned in wake, and the known ones."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop

LAPTOP = Laptop(
    "facts",
    {
        **SHORT, **PLAIN, "lr": 1e-3, "lora_rank": 16, "lora_alpha": 32, "reference": "worked", "wake_lr": 3e-3,
        "wake_steps": 60, "per_prompt": 4, "prompts": 25, "steps": 100,
    },
)  # fmt: skip
