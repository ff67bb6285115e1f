"""OPSD: the solution-reading, frozen self teaches."""

from __future__ import annotations

from selfteach.studies.laptop import ADAM, MUTE, SHORT, Laptop

KNOBS = {
    **SHORT, **ADAM, **MUTE, "teacher_thinking": None, "beta": 1.0, "clip_entry": None, "steps": 300, "prompts": 64,
}  # fmt: skip
LAPTOP = Laptop("table", KNOBS)
