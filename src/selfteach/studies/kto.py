"""KTO: the baseline on single judgements; in the arena, the verifier's of fresh answers."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop

LAPTOP = Laptop(
    "table",
    {**SHORT, **PLAIN, "lr": 3e-4, "labels": "rollouts", "per_prompt": 8, "steps": 150, "prompts": 8},
)
