"""ListOPD: extrapolation below its cliff. Its claim is about strict formats, of which the arena has no world yet."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, Laptop

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **ADAM,
        **MUTE,
        "teacher": "arena:tutor-large",
        "estimator": "full",
        "steps": 150,
        "prompts": 64,
    },
)
