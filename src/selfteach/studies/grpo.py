"""GRPO: the baseline with a sparse reward."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, SLOW, Laptop

LAPTOP = Laptop(
    "table", {**SHORT, **PLAIN, "lr": 3e-4, "kl": 0.0, "per_prompt": 8, "steps": 300, "prompts": 8}
)  # fmt: skip

ROWS, ADAMS = "--per-prompt 8 --prompts 2", "--lr 3e-4 --betas 0.9 0.95"
"""Eight answers to each of two prompts; the rate and betas, for a method whose preset has others."""
REINFORCED = f"grpo --task tutor {SLOW} {ROWS} --betas 0.9 0.95 --clip-high 0.28"
"""GRPO as the baseline of world tutor's studies, at the preset's rate; what is held against it writes as much."""
