"""SFT: the baseline on references."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, Laptop

LAPTOP = Laptop("table", {**PLAIN, "lr": 3e-4, "max_tokens": 64, "steps": 300, "prompts": 64})
