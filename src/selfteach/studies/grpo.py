"""GRPO: the baseline with a sparse reward."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, Laptop

LAPTOP = Laptop(
    "table", {**SHORT, **PLAIN, "lr": 3e-4, "kl": 0.0, "per_prompt": 8, "steps": 300, "prompts": 8}
)  # fmt: skip

REINFORCED = "grpo --task tutor --steps 40 --eval-every 8 --eval-samples 1 --betas 0.9 0.95 --clip-high 0.28"
"""GRPO as the baseline of world tutor's studies, at the preset's rate and 8 answers to each of 8 prompts; what is held
against it writes as many."""
ROWS, ADAMS = "--per-prompt 8 --prompts 8", "--lr 3e-4 --betas 0.9 0.95"
"""The same for a method whose preset has other rows, rate or betas."""
