"""DPO: the baseline on preferences; in the arena, of a group's right answers over its wrong ones."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop

LAPTOP = Laptop(
    "table",
    {**SHORT, **PLAIN, "lr": 3e-4, "pairs": "rollouts", "per_prompt": 8, "steps": 150, "prompts": 8},
)
