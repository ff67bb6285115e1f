"""GRPO: the baseline with a sparse reward."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop

LAPTOP = Laptop(
    "table", {**SHORT, **PLAIN, "lr": 3e-4, "kl": 0.0, "per_prompt": 8, "steps": 300, "prompts": 8}
)  # fmt: skip
