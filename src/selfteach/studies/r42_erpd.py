"""ERPD: weights are driven off, and only what they learned is kept."""

from __future__ import annotations

from selfteach.studies.laptop import PLAIN, SHORT, UNSURE, Laptop
from selfteach.studies.study import Claim, Study
from selfteach.studies.verdict import Within

LAPTOP = Laptop(
    "tutor",
    {
        **SHORT,
        **PLAIN,
        "stored": 64,
        "per_prompt": 8,
        "prompts": 16,
        "rounds": 2,
        "lr": 3e-4,
        "steps": 20,
        "extreme_lr": 1e-3,
        "extreme_steps": 40,
    },
)

ERPD = "erpd --rounds 2 --stored 32 --extreme-steps 40 --steps 16 --prompts 4 --per-prompt 4 --task tutor"

DRIVEN = ("--lr x0.3|x1", "--extreme-steps 10|40")
"""How far the copy is driven decides what it can teach: each side gets its own."""

STUDY = Study(
    method="erpd",
    model=UNSURE,
    task="tutor",
    claims=(
        Claim(
            says="A bound on the updates that drive the copy off only lowers the ceiling",
            variants={"unbounded": ERPD, "bounded": f"{ERPD} --extreme-clip 0.2"},
            higher="unbounded",
            lower="bounded",
            sweep=DRIVEN,
            withdrawn="at the rate that the tuning chooses for the bounded copy it falls back in some seeds; at the "
            "other side's rate both end alike (0.79 and 0.78 in seeds 0 to 7): the rate decides, not the bound",
        ),
        Claim(
            says="The copy itself need not be good: one that was made to unlearn teaches as well (released models)",
            variants={"unlearned": f"{ERPD} --extreme unlearned", "learned": ERPD},
            higher="unlearned",
            lower="learned",
            rule=Within(0.05),
            sweep=DRIVEN,
        ),
    ),
)
