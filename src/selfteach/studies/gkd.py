"""GKD: the baseline with another model as teacher."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, SHORT, Laptop

LAPTOP = Laptop(
    "tutor", {**SHORT, **ADAM, "teacher": "arena:tutor-large", "lmbda": 1.0, "steps": 150, "prompts": 64}
)  # fmt: skip
