"""GRPO: the baseline with a sparse reward."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop

LAPTOP = Laptop(
    "table", {**SHORT, **PLAIN, "lr": 3e-4, "kl": 0.0, "per_prompt": 8, "steps": 300, "prompts": 8}
)  # fmt: skip

ROWS = "--per-prompt 8 --prompts 16"
"""Answers of a step in studies against reinforcement: with 8 x 8, the preset's, world tutor's sparse reward taught GRPO
nothing in 80 steps on tuning seed 1000, at rates from 9e-5 to 9e-4; with these it did at 5e-4."""
ADAMS = "--lr 5e-4 --betas 0.9 0.95"
REINFORCED = f"grpo --task tutor --steps 80 {ROWS} {ADAMS} --clip-high 0.28"
"""GRPO as the baseline of that world's studies; what is held against it writes as many answers."""
